"""From a reduced graph and a sequence of its nodes to the arrays of the annealing kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.annealing import kernel
from remat_planner.solvers.problem import Problem

# Runs that one move can add are far fewer than this; the tables hold so many more than the start and its recomputations.
_SPARE_RUNS = 200
# Recomputations in a sequence: this many for each node, but at least the second number.
_RECOMPUTATIONS_PER_NODE, _LEAST_RECOMPUTATIONS = 4, 2000
# Price of an op that takes no time, as a share of the mean op's: enough that it is not recomputed for nothing.
_PRICE_OF_FREE_OPS = 1e-6
# The first price of a byte over the budget: so many mean items cost as much as a mean op. It adapts within some thousand moves.
_ITEMS_PER_OP = 5.0


def wiring_of(problem: Problem, *, any_order: bool = False) -> kernel.Wiring:
    """The graph as the kernel reads it. Costs are shares of the step's seconds.

    In any order, first runs may come late of all nodes but those that are never recomputed or keep their turn.
    """
    n, m = problem.n, problem.m
    fixed = problem.pinned | problem.outside
    # An in-place result must run again whenever its base does: the kernel recomputes neither.
    in_place = np.flatnonzero(problem.in_place)
    fixed[problem.producer[in_place]] = True
    fixed[problem.producer[problem.base[in_place]]] = True
    written = np.zeros(n, dtype=np.int64)
    np.add.at(written, problem.producer, problem.bytes)
    # A lasting in-place result makes its base last.
    lasting = problem.lasting.copy()
    lasting[problem.base[problem.lasting]] = True
    # In the given order the first instance of a result stays where it is.
    makes_result = np.zeros(n, dtype=np.bool_)
    makes_result[problem.producer[lasting]] = True
    late = ~problem.in_turn & ~fixed if any_order else problem.auxiliary & ~fixed & ~makes_result
    reads, writes = len(problem.read_items), len(problem.write_items)
    by_item = np.argsort(problem.read_items, kind="stable")
    readers = np.repeat(np.arange(n), np.diff(problem.read_ptr))[by_item]
    read_ptr = problem.read_ptr
    write_ptr = problem.write_ptr + reads
    reader_ptr = np.concatenate(([0], np.cumsum(np.bincount(problem.read_items, minlength=m)))) + reads + writes
    nodes = (
        problem.workspace,
        problem.replay,
        written,
        ~fixed,
        late,
        read_ptr[:-1],
        read_ptr[1:],
        write_ptr[:-1],
        write_ptr[1:],
    )
    items = (problem.bytes, lasting, problem.producer, reader_ptr[:-1], reader_ptr[1:])
    cost = problem.cost / problem.seconds if problem.seconds > 0 else problem.cost
    return kernel.Wiring(
        cost=cost + _PRICE_OF_FREE_OPS * float(cost.mean() or 1.0),
        nodes=_table(nodes),
        items=_table(items),
        links=np.concatenate((problem.read_items, problem.write_items, readers)).astype(np.int64),
    )


def starting_state(
    problem: Problem, wiring: kernel.Wiring, nodes: Sequence[int], budget: int, *, seed: int, most_runs: int
) -> kernel.SequenceState:
    """The kernel's state for a sequence of nodes that runs.

    Args:
        problem: the reduced graph.
        wiring: ``wiring_of(problem)``.
        nodes: the sequence.
        budget: bytes at the peak, constants included.
        seed: of the random generator.
        most_runs: runs of one node that a sequence may have.
    """
    n, length = problem.n, len(nodes)
    most = length + max(_RECOMPUTATIONS_PER_NODE * n, _LEAST_RECOMPUTATIONS) + _SPARE_RUNS
    slots = 2 * length + 64
    live = problem.simulate(nodes).bytes - problem.constant_bytes
    over = int(np.maximum(live - (budget - problem.constant_bytes), 0).sum())
    state = kernel.SequenceState(
        held=np.full(2 * most + 64, -1, dtype=np.int64),
        live=np.full(2 * most + 64, kernel.EMPTY, dtype=np.int64),
        runs=np.zeros((n, most_runs + 2), dtype=np.int64),
        run=np.full((most, 3), -1, dtype=np.int64),
        free=np.zeros(most, dtype=np.int64),
        removable=np.zeros(most, dtype=np.int64),
        counters=np.zeros(8, dtype=np.int64),
        measures=np.zeros(3),
        random=np.array([seed], dtype=np.uint64),
        best=np.zeros(most, dtype=np.int64),
    )
    place = np.arange(length) * slots // max(length, 1)  # evenly spaced
    state.held[place] = np.arange(length)
    state.live[place] = live
    state.run[:length, kernel.PLACE] = place
    state.run[:length, kernel.NODE] = nodes
    state.free[: most - length] = np.arange(most - 1, length - 1, -1)
    removable = 0
    for e, v in enumerate(nodes):
        # The last run of the sequence stays, so that a run follows every other one.
        if (state.runs[v, 0] or (problem.auxiliary[v] and wiring.nodes[v, kernel.LATE])) and e + 1 < length:
            state.run[e, kernel.INDEX] = removable
            state.removable[removable] = e
            removable += 1
        state.runs[v, 0] += 1
        state.runs[v, state.runs[v, 0]] = e
    outside = np.flatnonzero(problem.outside)
    counters = state.counters
    counters[kernel.BARRIER_FROM], counters[kernel.BARRIER_TO] = (outside[0], outside[-1]) if len(outside) else (-1, -1)
    counters[kernel.FREE] = most - length
    counters[kernel.REMOVABLE] = removable
    counters[kernel.RUNS] = length
    counters[kernel.SLOTS] = slots
    counters[kernel.OVER] = over
    state.measures[kernel.COST] = float(wiring.cost[np.asarray(nodes)].sum() - wiring.cost.sum())
    state.measures[kernel.BEST] = math.inf
    state.measures[kernel.WEIGHT] = mean_positive(wiring.cost) / (_ITEMS_PER_OP * mean_positive(problem.bytes))
    if over == 0:
        state.measures[kernel.BEST] = state.measures[kernel.COST]
        state.best[:length] = nodes
        counters[kernel.BEST_LENGTH] = length
    return state


def mean_positive(values: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """The mean of the positive values; 1 if there is none."""
    positive = values[values > 0]
    return float(positive.mean()) if len(positive) else 1.0


def _table(columns: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    return np.ascontiguousarray(np.stack([column.astype(np.int64) for column in columns], axis=1))
