"""Solves for a budget on the bytes that a GPU's allocator hands out or reserves.

Solvers see the bytes that a schedule requests, not those that the allocator adds. So a schedule is solved for, replayed on the
allocator, and solved for again under a lower budget if the allocator exceeds the real one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from remat_planner.planner.gpu_allocator.allocator_peak import AllocatorPeak
from remat_planner.schedules import Graph, preference, simulate
from remat_planner.solvers import Deadline, Order, Reporter, Solution, Solver, solve

_TRIES = 8
"""Solves after the first one, at most."""

_TRIES_IN_ANY_CASE = 2
"""So many of them where nothing fits yet and the time is over: "auto" still tries what takes next to none."""

_FIRST_SHARE = 0.6
"""Share of the time for the first solve, which in most cases is the only one."""

_CLOSE = 0.01
"""The search ends once the highest target that fits is known to this share of the budget."""

Steps = tuple[int, ...]


@dataclass(frozen=True)
class _Candidate:
    """A schedule with its seconds and its peak by the allocator's rules."""

    steps: Steps
    seconds: float
    peak_bytes: int


def solve_on_gpu(
    graph: Graph,
    budget: int,
    peak: AllocatorPeak,
    *,
    solver: str | Solver,
    time_limit: float,
    reporter: Reporter | None = None,
    start: tuple[Steps, ...] = (),
    order: Order = "given",
) -> Solution:
    """The cheapest schedule found whose ``peak`` is within ``budget``; if infeasible, ``minimum`` is the lowest peak found.

    The bound is that of the budget itself, and remains valid: the bytes that the allocator adds only exclude schedules.
    """
    deadline = Deadline(time_limit)
    peaks = {steps: peak(steps) for steps in start}

    def solve_for(target: int, share: float) -> Solution:
        """Solve for ``target`` bytes in that share of the remaining time, from what was found for others."""
        seconds = share * deadline.remaining
        known = tuple(peaks)
        return solve(graph, target, solver=solver, time_limit=seconds, reporter=reporter, start=known, order=order)

    first = solve_for(budget, _FIRST_SHARE)
    peaks[_steps_of(first)] = peak(_steps_of(first))
    if first.status != "infeasible":
        if peaks[first.steps] <= budget:
            return first
        last = _search(first, budget, peak, peaks, deadline, solve_for)
        if min(peaks.values()) > budget and last.status != "infeasible":
            lowest = solve(graph, 1, solver=solver, time_limit=deadline.remaining, start=start, order=order).minimum_steps
            peaks[lowest] = peak(lowest)
    candidates = [_Candidate(steps, simulate(graph, steps).seconds, size) for steps, size in peaks.items()]
    best = min(candidates, key=lambda candidate: preference(candidate, budget))
    return _feasible(graph, first, best) if best.peak_bytes <= budget else _infeasible(first, best)


def _search(
    first: Solution,
    budget: int,
    peak: AllocatorPeak,
    peaks: dict[Steps, int],
    deadline: Deadline,
    solve_for: Callable[[int, float], Solution],
) -> Solution:
    """Solve for lower targets, note the ``peaks`` of the schedules, and return the last solution.

    The first targets are lower by what the allocator exceeded the budget by; once one fits or is infeasible, bisection follows.
    """
    solution = first
    low, high = 0, first.peak_bytes  # targets: the highest that fits or is infeasible, and the lowest that exceeds the budget
    for tried in range(_TRIES):
        fits = min(peaks.values()) <= budget
        if high - low <= _CLOSE * budget or (deadline.expired and (fits or tried >= _TRIES_IN_ANY_CASE)):
            break
        excess = peaks[_steps_of(solution)] - budget
        target = (low + high) // 2 if low else max(1, solution.peak_bytes - excess)
        solution = solve_for(target, 0.5)
        steps = _steps_of(solution)
        peaks[steps] = peak(steps)
        if solution.status == "infeasible" or peaks[steps] <= budget:
            low = target
        else:
            high = min(high, solution.peak_bytes)
    return solution


def _steps_of(solution: Solution) -> Steps:
    return solution.steps or solution.minimum_steps


def _feasible(graph: Graph, first: Solution, best: _Candidate) -> Solution:
    return replace(
        first,
        steps=best.steps,
        cost=best.seconds,
        peak_bytes=simulate(graph, best.steps).peak_bytes,
        gap=(best.seconds - first.bound) / graph.seconds if graph.seconds else 0.0,
        status="feasible",
        bottleneck=None,
        minimum_steps=(),
    )


def _infeasible(first: Solution, best: _Candidate) -> Solution:
    return replace(
        first,
        steps=(),
        cost=math.inf,
        gap=math.inf,
        status="infeasible",
        minimum=best.peak_bytes,
        minimum_steps=best.steps,
        bottleneck=first.bottleneck or "what the allocator adds to the bytes that are asked of it",
    )
