"""Blocks of a training step: stretches of the forward pass between narrow cuts, each with its stretch of the backward.

An item is *internal* to a block if only the block's own forward nodes and its own stretch of the backward read it: keeping or
recomputing it concerns the block alone. All other items live as they would without recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from remat_planner.solvers.problem import Bools, Ints, Problem
from remat_planner.solvers.two_level.options import DEFAULT_OPTIONS, TwoLevelOptions


@dataclass(frozen=True, eq=False)
class Block:
    """Forward nodes [start, end) and the nodes [opens, closes) that run while the backward pass goes through them."""

    start: int
    end: int
    opens: int
    closes: int


@dataclass(frozen=True, eq=False)
class Partition:
    """A cut of the step.

    Attributes:
        blocks: in forward order; together they are all nodes before ``turn``.
        turn: the first node that depends on the incoming gradient.
        internal: bool[m].
        block_of: int64[m], the block of the producer of each item; -1 after ``turn``.
    """

    blocks: tuple[Block, ...]
    turn: int
    internal: Bools
    block_of: Ints


def turning_point(problem: Problem) -> int:
    """The first node that is not forward work: where the backward pass begins."""
    backward = np.flatnonzero(~problem.forward)
    return int(backward[0]) if len(backward) else problem.n


def partitions(problem: Problem, options: TwoLevelOptions = DEFAULT_OPTIONS) -> list[Partition]:
    """Partitions from fine to coarse, cut where least crosses; identical layers are cut alike. Empty where nothing turns."""
    turn = turning_point(problem)
    if turn in (0, problem.n):
        return []
    cuts = _narrow_cuts(problem, turn, options)
    ends = [*cuts, turn]
    period, offset = _period(_signatures(problem, [0, *ends])) if options.align_layers else (1, 0)
    made: list[Partition] = []
    seen: set[tuple[int, ...]] = set()
    for group in _groups(ends, period, options.levels):
        merged = _merge(ends, group, offset if group % period == 0 else 0)
        sizes = np.diff([0, *merged])
        if tuple(merged) in seen or (made and sizes.max() > max(options.most_nodes, np.diff([0, *ends]).max())):
            continue
        seen.add(tuple(merged))
        made.append(_with_windows(problem, turn, merged))
    return made


def _narrow_cuts(problem: Problem, turn: int, options: TwoLevelOptions) -> list[int]:
    """Places p just after an item is written that the forward pass reads from p on, where few such items cross."""
    long = max(options.long * turn, options.long_at_least)
    change = np.zeros(turn + 1, dtype=np.int64)
    fresh = np.zeros(turn + 1, dtype=np.bool_)
    for item, readers in enumerate(problem.readers):
        producer = int(problem.producer[item])
        last = max((reader for reader in readers if reader < turn), default=-1)
        if producer < last:
            fresh[producer + 1] = True
            if last - producer <= long:
                change[producer + 1] += 1
                change[last + 1] -= 1
    crossing = np.cumsum(change)
    fresh[0] = fresh[turn] = False
    cuts: list[int] = []
    for most in range(1, options.most_crossing + 1):
        cuts = np.flatnonzero(fresh & (crossing <= most)).tolist()
        if len(cuts) >= options.enough_cuts:
            break
    return cuts


def _signatures(problem: Problem, bounds: Sequence[int]) -> list[int]:
    """For each stretch between bounds a number: equal stretches of ops, sizes and wiring have equal ones."""
    signatures = []
    for start, end in pairwise(bounds):
        content = []
        for node in range(start, end):
            wiring = tuple(max(int(problem.producer[i]) - start, -1) for i in problem.reads[node])
            made = tuple(int(problem.bytes[i]) for i in problem.writes[node])
            content.append((float(problem.cost[node]), int(problem.workspace[node]), wiring, made))
        signatures.append(hash(tuple(content)))
    return signatures


def _period(signatures: Sequence[int]) -> tuple[int, int]:
    """After how many stretches the pattern repeats, and where it begins; (1, 0) where it does not."""
    count = len(signatures)
    for period in range(1, count // 2 + 1):
        same = [signatures[i] == signatures[i + period] for i in range(count - period)]
        if sum(same) >= 0.5 * count and sum(same) >= 2:
            return period, same.index(True)
    return 1, 0


def _groups(ends: Sequence[int], period: int, levels: int) -> list[int]:
    """Numbers of stretches to merge, fine to coarse."""
    small = max(1, round(8 / max(1.0, ends[-1] / len(ends))))
    groups = sorted({1 if small == 1 else small, *(max(small, period) * 2**level for level in range(levels))})
    return [group for group in groups if group == groups[0] or 2 * group <= len(ends)]


def _merge(ends: Sequence[int], group: int, offset: int) -> list[int]:
    """Every ``group``-th end, counted from stretch ``offset``; the stretches before and after form blocks of their own."""
    merged = [ends[i] for i in range(len(ends)) if i == offset - 1 or (i >= offset and (i - offset) % group == group - 1)]
    return merged if merged and merged[-1] == ends[-1] else [*merged, ends[-1]]


def _with_windows(problem: Problem, turn: int, ends: Sequence[int]) -> Partition:
    """Find each block's stretch of the backward: it opens where the first item of the block's own is read."""
    starts = [0, *ends[:-1]]
    block_of_node = np.searchsorted(np.array(ends), np.arange(turn), side="right")
    block_of = np.full(problem.m, -1, dtype=np.int64)
    early = problem.producer < turn
    block_of[early] = block_of_node[problem.producer[early]]
    own = _own_items(problem, turn, block_of, block_of_node.tolist(), len(ends))
    reads = {item: [reader for reader in problem.readers[item] if reader >= turn] for items in own for item in items}
    opens, closes = _stretches(turn, problem.n, [[reads[item] for item in items if reads[item]] for items in own])
    internal = np.zeros(problem.m, dtype=np.bool_)
    for items, begin, end in zip(own, opens, closes, strict=True):
        for item in items:
            internal[item] = not reads[item] or (begin <= reads[item][0] and reads[item][-1] < end)
    blocks = tuple(Block(*bounds) for bounds in zip(starts, ends, opens, closes, strict=True))
    return Partition(blocks, turn, internal, block_of)


def _own_items(problem: Problem, turn: int, block_of: Ints, block_of_node: Sequence[int], count: int) -> list[list[int]]:
    """For each block its items that no other block's forward reads, and that may be recomputed."""
    own: list[list[int]] = [[] for _ in range(count)]
    altered = {int(problem.base[item]) for item in np.flatnonzero(problem.in_place)}
    for item in np.flatnonzero(block_of >= 0).tolist():
        readers = problem.readers[item]
        # In-place results and their bases stay as they are; items of nodes that run once live as long as they would anyway.
        if problem.in_place[item] or item in altered or problem.lasting[item] or problem.pinned[problem.producer[item]]:
            continue
        # Items that the caller's loss reads must be available when it begins: nothing may be recomputed between its ops.
        if any(problem.outside[reader] for reader in readers):
            continue
        if all(reader >= turn or block_of_node[reader] == block_of[item] for reader in readers):
            own[block_of[item]].append(item)
    return own


def _stretches(turn: int, end: int, reads: Sequence[Sequence[Sequence[int]]]) -> tuple[list[int], list[int]]:
    """First and one past the last backward node of each block's stretch; ``reads`` are the reads of each block's own items."""
    places: list[int | None] = [None] * len(reads)
    above = turn
    # From the last block to the first. An item read before the block above has opened would need both blocks at once.
    for b in range(len(reads) - 1, -1, -1):
        places[b] = min((of_item[0] for of_item in reads[b] if of_item[0] >= above), default=None)
        above = above if (place := places[b]) is None else place + 1
    # A block without reads has an empty stretch, just before that of the next block below that has one.
    opens: list[int] = []
    closes: list[int] = []
    for place in places:
        closes.append(opens[-1] if opens else end)
        opens.append(closes[-1] if place is None else place)
    opens[-1] = turn
    return opens, closes
