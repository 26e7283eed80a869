"""From the shares of the program with copies, or a sequence without them, to decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from remat_planner.schedules import Transfer
from remat_planner.solvers.copies.gaps import COPY, KEEP, LEAVE, Ints
from remat_planner.solvers.copies.plan import CopyPlanner


def rounded(
    planner: CopyPlanner,
    moments: Sequence[int],
    held: Sequence[Mapping[int, float]],
    loaded: Sequence[Mapping[int, float]],
) -> Ints:
    """Decisions that follow the shares of ``CopyShares``.

    A gap over several moments is decided by those where the least of the item is held. Of what is not held for the most part,
    an item is copied if at least half of what is missing is loaded.
    """
    gaps, problem = planner.gaps, planner.problem
    kept = np.ones(len(gaps))
    copied = np.zeros(len(gaps))
    for t, held_then, loaded_then in zip(moments, held, loaded, strict=True):
        for gap in np.flatnonzero((gaps.before < t) & (gaps.after > t)).tolist():
            item = int(gaps.item[gap])
            kept[gap] = min(kept[gap], held_then.get(item, 0.0))
            copied[gap] += loaded_then.get(item, 0.0)
    away = kept < 0.5
    copies = away & gaps.may_be_copied & ((copied >= 0.5 * (1 - kept)) | ~gaps.may_leave)
    decisions = gaps.keep_all(problem.n)
    decisions[~away & np.isin(np.arange(len(gaps)), _over_moments(gaps.before, gaps.after, moments))] = KEEP
    decisions[away & gaps.may_leave] = LEAVE
    return planner.copying(decisions, np.flatnonzero(copies).astype(np.int64))


def observed(planner: CopyPlanner, steps: Sequence[int]) -> Ints:
    """The decisions of a schedule: an item leaves in a gap if its next use reads another instance, by a copy if that is loaded.

    Of an item that a schedule recomputes only to recompute others from it, the decisions say nothing.
    """
    problem, gaps = planner.problem, planner.gaps
    decisions = gaps.keep_all(problem.n)
    instance = [-1] * problem.m
    used: dict[tuple[int, int], int] = {}  # the instance of an item that the first run of a node uses
    seen: set[int] = set()
    node_of = dict(zip(problem.ops.tolist(), range(problem.n), strict=True))
    item_of = {storage: item for item, storages in enumerate(problem.storages) for storage in storages}
    number = {pool.name: k for k, pool in enumerate(planner.pools)}
    loaded: dict[tuple[int, int], int] = {}  # item and instance: the pool
    for place, step in enumerate(steps):
        action = problem.graph.actions[step]
        if isinstance(action, Transfer):
            if action.kind == "load":
                item = item_of[action.storage]
                instance[item] = place
                loaded[item, place] = number[action.pool.name]
            continue
        if step not in node_of:
            continue
        node = node_of[step]
        for item in problem.writes[node]:
            instance[item] = place
        if node not in seen:
            seen.add(node)
            used.update(((item, node), instance[item]) for item in (*problem.reads[node], *problem.writes[node]))
    for gap, (item, before, after) in enumerate(zip(gaps.item, gaps.before, gaps.after, strict=True)):
        if after < problem.n and used[item, before] != used[item, after]:
            pool = loaded.get((item, used[item, after]))
            if pool is not None and gaps.may_be_copied[gap]:
                decisions[gap] = COPY + pool
            elif gaps.may_leave[gap]:
                decisions[gap] = LEAVE
    return decisions


def _over_moments(before: Ints, after: Ints, moments: Sequence[int]) -> Ints:
    """The gaps over at least one of ``moments``."""
    over = np.zeros(len(before), dtype=np.bool_)
    for t in moments:
        over |= (before < t) & (after > t)
    return np.flatnonzero(over).astype(np.int64)
