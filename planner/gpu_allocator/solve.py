"""Solving for a budget that a GPU's allocator has to keep.

The allocator hands out a cached block whole where at most 1 MiB of it would be left over, and reserves more than it hands out.
Both depend on the order of all allocations, which no solver sees. So a schedule is solved for, run through the allocator on
paper, and where it takes too much, solved for again with that much less.

On paper the process is fresh. A real one has cached blocks from before (parameters that were converted, other steps, an
evaluation), some of which are handed out whole: on an H200 a ResNet-50 planned to take 3.85 GB took 5 MiB more. That is kept
free as well. With expandable segments every block is cut to what is asked for, and nothing needs to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from remat_planner.planner.gpu_allocator.caching_allocator import MIB, SMALL
from remat_planner.planner.gpu_allocator.replay import allocator_after, expandable_segments_are_set
from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Deadline, Reporter, Solution, solve

_TRIES = 8
_FIRST = 0.6  # share of the time for the first try, which mostly is the only one
_CLOSE = 0.01  # of the budget: the search ends where it is known this well what fits
# No more is kept free for what other blocks were cached before the step than this fraction of the bytes handed out, or this
# much. On a GPU 5 MiB of 3.85 GB were the most ever seen.
_HISTORY, _HISTORY_BYTES = 0.01, 64 * MIB

Steps = tuple[int, ...]
Taken = Callable[[Sequence[int]], int]


def allocator_bytes(graph: Graph, *, reserved: bool) -> Taken:
    """``taken(steps)``: bytes that the allocator reserves in a fresh process, or else hands out in one with a history, at the
    most, set as in this environment.
    """
    expandable = expandable_segments_are_set()
    worst = in_whole_blocks(graph)

    def taken(steps: Sequence[int]) -> int:
        allocator = allocator_after(graph, steps, expandable_segments=expandable)
        fresh = max(allocator.reserved if reserved else allocator.peak_allocated, simulate(graph, steps).peak_bytes)
        if reserved or expandable:
            return fresh
        most = fresh + min(int(fresh * _HISTORY), _HISTORY_BYTES)
        return max(fresh, min(simulate(worst, steps).peak_bytes, most))

    return taken


def in_whole_blocks(graph: Graph) -> Graph:
    """``graph`` with 1 MiB left over in every block of more than 1 MiB: the worst that cached blocks can do."""

    def whole(size: int) -> int:
        return size + MIB if size > SMALL else size

    return replace(
        graph,
        storages=tuple(replace(storage, bytes=whole(storage.bytes)) for storage in graph.storages),
        ops=tuple(replace(op, workspace=whole(op.workspace)) for op in graph.ops),
    )


def solve_on_gpu(
    graph: Graph,
    budget: int,
    taken: Taken,
    *,
    solver: str,
    time_limit: float,
    reporter: Reporter | None = None,
    start: tuple[Steps, ...] = (),
) -> Solution:
    """The best schedule found for which ``taken`` is within ``budget``; where none is, ``minimum`` is the least that was taken.

    The bound is that of the budget itself: what the allocator adds only takes schedules away.
    """
    deadline = Deadline(time_limit)
    first = solution = solve(graph, budget, solver=solver, time_limit=_FIRST * time_limit, reporter=reporter, start=start)
    tried = {steps: taken(steps) for steps in (*start, first.steps or first.minimum_steps)}
    if first.status != "infeasible" and tried[first.steps] <= budget:
        return first
    low, high = 0, first.peak_bytes  # targets: of what fitted or that nothing met, and of what took too much
    for _ in range(_TRIES):
        if first.status == "infeasible" or high - low <= _CLOSE * budget or deadline.expired:
            break
        excess = tried[solution.steps or solution.minimum_steps] - budget
        target = (low + high) // 2 if low else max(1, solution.peak_bytes - excess)
        solution = solve(graph, target, solver=solver, time_limit=deadline.remaining / 2, reporter=reporter, start=start)
        steps = solution.steps or solution.minimum_steps
        tried[steps] = taken(steps)
        if solution.status == "infeasible" or tried[steps] <= budget:
            low = target
        else:
            high = min(high, solution.peak_bytes)
    if min(tried.values()) > budget and solution.status != "infeasible":
        lowest = solve(graph, 1, solver=solver, time_limit=deadline.remaining, start=start).minimum_steps
        tried[lowest] = taken(lowest)
    within = [steps for steps, size in tried.items() if size <= budget]
    return _chosen(graph, first, within) if within else _nothing(first, tried)


def _chosen(graph: Graph, first: Solution, within: Sequence[Steps]) -> Solution:
    steps = min(within, key=lambda steps: simulate(graph, steps).seconds)
    run = simulate(graph, steps)
    return replace(
        first,
        steps=steps,
        cost=run.seconds,
        peak_bytes=run.peak_bytes,
        gap=(run.seconds - first.bound) / graph.seconds if graph.seconds else 0.0,
        status="feasible",
        bottleneck=None,
        minimum_steps=(),
    )


def _nothing(first: Solution, tried: dict[Steps, int]) -> Solution:
    least = min(tried, key=tried.__getitem__)
    return replace(
        first,
        steps=(),
        cost=math.inf,
        gap=math.inf,
        status="infeasible",
        minimum=tried[least],
        minimum_steps=least,
        bottleneck=first.bottleneck or "what the allocator adds to the bytes that are asked of it",
    )
