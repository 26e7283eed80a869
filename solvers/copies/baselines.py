"""The decisions of the policies in use today."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from remat_planner.solvers.chain import Forward, kept_by_segments, module_segments
from remat_planner.solvers.copies.gaps import KEEP, LEAVE, Ints
from remat_planner.solvers.copies.plan import CopyPlanner


def everything(planner: CopyPlanner) -> Ints:
    """Copy every item that the forward saves for the backward, in order, as long as the pool has room."""
    forward = Forward(planner.problem)
    decisions = planner.gaps.keep_all(planner.problem.n)
    return planner.copying(decisions, _saved_gaps(planner, forward, forward.saved))


def inputs_of_layers(planner: CopyPlanner) -> Ints:
    """Copy the inputs of the layers (numbered modules), and recompute what lies inside them."""
    problem, gaps = planner.problem, planner.gaps
    forward = Forward(problem)
    segments = module_segments(forward)
    if segments:
        begins, is_block = segments[0]
        kept = kept_by_segments(forward, begins, [number for number, block in enumerate(is_block) if not block])
    else:
        kept = set(forward.saved)
    decisions = gaps.keep_all(problem.n)
    inside = _gaps_at_turn(planner, forward, {*range(problem.m)} - kept)
    decisions[inside[gaps.may_leave[inside]]] = LEAVE
    blocks_inputs = kept_by_segments(forward, segments[0][0]) if segments else kept
    return planner.copying(decisions, _gaps_at_turn(planner, forward, kept & blocks_inputs))


def most_seconds_per_byte(planner: CopyPlanner) -> Ints:
    """Copy what takes longest to recompute, by byte, as much as the link takes during the forward; recompute of the rest.

    Inputs of layers are copied first. Of what is not copied, the quickest to recompute by byte is recomputed first, and no more
    than the budget asks for. Seconds are those of the op alone, as in torchtitan's policy.
    """
    problem, gaps = planner.problem, planner.gaps
    forward = Forward(problem)
    entering = _inputs(forward)
    candidates = np.union1d(_saved_gaps(planner, forward, forward.saved), _gaps_at_turn(planner, forward, entering))
    items = gaps.item[candidates]
    ratio = problem.cost[problem.producer[items]] / problem.bytes[items]
    ratio[np.isin(items, list(entering))] = np.inf
    candidates = candidates[np.argsort(-ratio, kind="stable")]
    seconds = float(problem.cost[: forward.start].sum())
    room = seconds * sum(pool.outgoing.bytes_per_second for pool in planner.pools)
    copyable = candidates[gaps.may_be_copied[candidates]]
    copied = copyable[np.cumsum(problem.bytes[gaps.item[copyable]]) <= room]
    decisions = planner.copying(gaps.keep_all(problem.n), np.sort(copied))
    rest = [
        gap
        for gap in candidates[::-1].tolist()
        if decisions[gap] == KEEP and gaps.may_leave[gap] and int(gaps.item[gap]) not in entering
    ]
    low, high = 0, len(rest)
    while low < high:
        middle = (low + high) // 2
        trial = decisions.copy()
        trial[rest[:middle]] = LEAVE
        low, high = (low, middle) if not planner.plan(trial).excess else (middle + 1, high)
    decisions[rest[:low]] = LEAVE
    return decisions


def _inputs(forward: Forward) -> set[int]:
    """The items that cross from one layer into another; none where the graph names no layers."""
    segments = module_segments(forward)
    return kept_by_segments(forward, segments[0][0]) if segments else set()


def _gaps_at_turn(planner: CopyPlanner, forward: Forward, items: Collection[int]) -> Ints:
    """The gaps of ``items`` around the end of the forward."""
    gaps = planner.gaps
    return np.flatnonzero(
        (gaps.before < forward.start) & (gaps.after >= forward.start) & np.isin(gaps.item, list(items))
    ).astype(np.int64)


def _saved_gaps(planner: CopyPlanner, forward: Forward, items: Collection[int]) -> Ints:
    """As ``_gaps_at_turn``, of items that later nodes read."""
    gaps = _gaps_at_turn(planner, forward, items)
    return gaps[planner.gaps.after[gaps] < planner.problem.n]
