"""The arrays that the annealing kernel works on: the graph, the sequence, and the mix of the moves.

The sequence lies in a sparse array. *Slots* hold *runs* (executions of a node) in order, with empty slots in between: a place
in the sequence is a number, inserting a run is cheap, and changing the live bytes of a stretch is one pass over contiguous
memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]

EMPTY = -(1 << 62)  # Live bytes of an empty slot: so low that no change of a stretch brings them near a budget.
NOWHERE = 1 << 40  # A slot after every slot.

# Columns of Wiring.nodes. READS and WRITES are where the node's items begin in ``links``; the next column is where they end.
WORKSPACE, REPLAY, MADE, AGAIN, LATE, READS, _, WRITES, _ = range(9)
# Columns of Wiring.items. READERS is where the nodes that read it begin in ``links``; the next column is where they end.
SIZE, LASTING, PRODUCER, READERS, _ = range(5)
# Columns of SequenceState.run.
PLACE, NODE, INDEX = range(3)
# Entries of SequenceState.counters. Nothing may be inserted between the first runs of BARRIER_FROM and BARRIER_TO (nodes; -1:
# no barrier).
FREE, REMOVABLE, OVER, SLOTS, RUNS, BARRIER_FROM, BARRIER_TO, BEST_LENGTH = range(8)
# Entries of SequenceState.measures.
COST, BEST, WEIGHT = range(3)
# Columns of a move's log: INSERTED or REMOVED; the node; the inserted run, or the run that followed the removed one. PENDING is
# a stack of the move's own.
KIND, LOGGED, RUN, PENDING = range(4)
INSERTED, REMOVED = range(2)


class Wiring(NamedTuple):
    """The graph: n nodes and m items as ``Problem`` numbers them. A few wide tables are fast to pass and to read.

    Attributes:
        cost: float64[n], cost of each node, in any unit.
        nodes: int64[n, 9]: workspace bytes, replay bytes, bytes of all that the node writes, whether it may run more than once,
            whether its first run may come late, and where its reads and writes are in ``links``.
        items: int64[m, 5]: bytes, whether it is lasting, its producer, and where its readers are in ``links``.
        links: items read and written by each node, and the nodes that read each item.
    """

    cost: NDArray[np.float64]
    nodes: Table
    items: Table
    links: Table


class SequenceState(NamedTuple):
    """The sequence, and the state of the annealing.

    Attributes:
        held: int64[slots], the run in each slot, or -1.
        live: int64[slots], live bytes while it runs; about ``EMPTY`` where none is.
        runs: int64[n, 2 + most], for each node the number of its runs, then the runs in order.
        run: int64[runs, 3], slot and node of each run, and its index in ``removable`` (-1: not in there).
        free: int64[runs], stack of unused run numbers.
        removable: int64[runs], runs that a move may remove, in no order.
        counters: int64[8], see above. OVER is the sum, over all runs, of the bytes above the budget.
        measures: float64[3], cost above one run of each node; that of ``best``; price of a byte over the budget.
        random: uint64[1], state of the random generator.
        best: int64[runs], nodes of the cheapest sequence within the budget.
    """

    held: Table
    live: Table
    runs: Table
    run: Table
    free: Table
    removable: Table
    counters: Table
    measures: NDArray[np.float64]
    random: NDArray[np.uint64]
    best: Table


class MoveMix(NamedTuple):
    """Which moves are tried how often. Found by experiment on the published graphs; a share of 0 switches a kind of move off.

    Attributes:
        swaps: share of the moves that remove a run and then insert one.
        removals: share of the moves that remove a run.
        shifts: share of the moves that put a run elsewhere. The rest of the moves insert a run.
        at_peaks: while the sequence is over the budget, share of the insertions that recompute an item which is idle while many
            bytes are live; the rest recompute any input of any run.
        alone: share of the insertions that insert one run. The others also insert runs of producers whose results are not
            available there, each with a chance of one half,
        whole: but this share of the insertions with certainty.
        firsts: share of the shifts that put the first run of a node elsewhere; 0 where these keep the given order.
    """

    swaps: float = 0.25
    removals: float = 0.2
    shifts: float = 0.2
    at_peaks: float = 0.6
    alone: float = 0.4
    whole: float = 0.2
    firsts: float = 0.0


DEFAULT_MIX = MoveMix()
