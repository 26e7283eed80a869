"""Blocks of a training step: stretches of the forward pass between narrow cuts, each with the backward's stretch that reads it.

An item is *internal* to a block if only the block's own forward nodes and its own stretch of the backward read it: whether it
is kept or computed again concerns the block alone. All other items live as they would without recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from remat_planner.solvers.problem import Bools, Ints, Problem

# An item that is read over more than this share of the forward pass (a rope table, a mask, a U-Net's long skip) does not count
# when cuts are looked for: it crosses nearly all of them.
_LONG = 0.25
_LONG_AT_LEAST = 32
# Items that may cross a cut: as few as give this many cuts.
_MOST_CROSSING = 3
_ENOUGH_CUTS = 3
# A coarser partition with blocks above this many nodes is not made: choosing inside of one block would take too long.
_MOST_NODES = 300
_LEVELS = 4


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


def partitions(problem: Problem) -> list[Partition]:
    """Partitions from fine to coarse, cut where least crosses; identical layers are cut alike. Empty where nothing turns."""
    turn = turning_point(problem)
    if turn in (0, problem.n):
        return []
    cuts = _narrow_cuts(problem, turn)
    ends = [*cuts, turn]
    signatures = _signatures(problem, [0, *ends])
    period, offset = _period(signatures)
    found: list[Partition] = []
    seen: set[tuple[int, ...]] = set()
    for group in _groups(ends, period):
        merged = _merge(ends, group, offset if group % period == 0 else 0)
        sizes = np.diff([0, *merged])
        if tuple(merged) in seen or (found and sizes.max() > max(_MOST_NODES, np.diff([0, *ends]).max())):
            continue
        seen.add(tuple(merged))
        found.append(_with_windows(problem, turn, merged))
    return found


def _narrow_cuts(problem: Problem, turn: int) -> list[int]:
    """Places p just after an item is made that the forward pass reads from p on, where few such items cross."""
    long = max(_LONG * turn, _LONG_AT_LEAST)
    change = np.zeros(turn + 1, dtype=np.int64)
    fresh = np.zeros(turn + 1, dtype=np.bool_)
    for item, readers in enumerate(problem.readers):
        made = int(problem.producer[item])
        last = max((reader for reader in readers if reader < turn), default=-1)
        if made < last:
            fresh[made + 1] = True
            if last - made <= long:
                change[made + 1] += 1
                change[last + 1] -= 1
    crossing = np.cumsum(change)
    fresh[0] = fresh[turn] = False
    cuts: list[int] = []
    for most in range(1, _MOST_CROSSING + 1):
        cuts = np.flatnonzero(fresh & (crossing <= most)).tolist()
        if len(cuts) >= _ENOUGH_CUTS:
            break
    return cuts


def _signatures(problem: Problem, bounds: Sequence[int]) -> list[int]:
    """For each stretch between bounds a number that is equal where ops, sizes and wiring are."""
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


def _groups(ends: Sequence[int], period: int) -> list[int]:
    """Numbers of stretches to merge, fine to coarse."""
    small = max(1, round(8 / max(1.0, ends[-1] / len(ends))))
    groups = sorted({1 if small == 1 else small, *(max(small, period) * 2**level for level in range(_LEVELS))})
    return [group for group in groups if group == groups[0] or 2 * group <= len(ends)]


def _merge(ends: Sequence[int], group: int, offset: int) -> list[int]:
    """Every ``group``-th end, counted from stretch ``offset``; what lies before and behind forms blocks of its own."""
    merged = [ends[i] for i in range(len(ends)) if i == offset - 1 or (i >= offset and (i - offset) % group == group - 1)]
    return merged if merged and merged[-1] == ends[-1] else [*merged, ends[-1]]


def _with_windows(problem: Problem, turn: int, ends: Sequence[int]) -> Partition:
    """Find each block's stretch of the backward: it opens where the first item that is the block's own is read."""
    starts = [0, *ends[:-1]]
    block_of_node = np.searchsorted(np.array(ends), np.arange(turn), side="right")
    block_of = np.full(problem.m, -1, dtype=np.int64)
    early = problem.producer < turn
    block_of[early] = block_of_node[problem.producer[early]]
    in_place = problem.in_place
    own: list[list[int]] = [[] for _ in ends]
    first = np.full(problem.m, -1, dtype=np.int64)
    last = np.full(problem.m, -1, dtype=np.int64)
    for item in np.flatnonzero(early).tolist():
        readers = problem.readers[item]
        later = [reader for reader in readers if reader >= turn]
        here = block_of[item]
        stays = all(reader >= turn or block_of_node[reader] == here for reader in readers)
        # What the caller's loss reads is there when it begins: nothing may be computed again between its ops.
        stays = stays and not any(problem.outside[reader] for reader in readers)
        # In-place results and what they alter stay as they are, and what nodes make that run once stays as long as it would.
        if stays and not (in_place[item] or problem.lasting[item] or problem.pinned[problem.producer[item]]):
            own[here].append(item)
            if later:
                first[item], last[item] = later[0], later[-1]
    for item in np.flatnonzero(in_place).tolist():
        base = int(problem.base[item])
        if block_of[base] >= 0 and base in own[block_of[base]]:
            own[block_of[base]].remove(base)
    internal = np.zeros(problem.m, dtype=np.bool_)
    opens: list[int | None] = [None] * len(ends)
    above = turn
    # From the last block to the first: what is read before the block above it is through would need both at once.
    for b in range(len(ends) - 1, -1, -1):
        place = min((int(first[i]) for i in own[b] if first[i] >= above), default=None)
        opens[b] = place
        above = above if place is None else place + 1
    # A block of which nothing is read has an empty stretch, just before that of the next block below that has one.
    opens_of: list[int] = []
    closes: list[int] = []
    for b in range(len(ends)):
        closes.append(opens_of[-1] if opens_of else problem.n)
        place = opens[b]
        opens_of.append(closes[-1] if place is None else place)
    opens_of[-1] = turn
    for b in range(len(ends)):
        for item in own[b]:
            inside = first[item] < 0 or (opens_of[b] <= first[item] and last[item] < closes[b])
            internal[item] = inside
    blocks = tuple(Block(*bounds) for bounds in zip(starts, ends, opens_of, closes, strict=True))
    return Partition(blocks, turn, internal, block_of)
