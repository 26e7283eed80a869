"""Many budgets of one step at once."""

from __future__ import annotations

from typing import Any

from remat_planner.planner.gpu_allocator import solve_on_gpu
from remat_planner.planner.planning.schedule_cache import known_schedules, remember_schedule
from remat_planner.planner.planning.solve_step import allocator_peak_of, peak_without_recomputation
from remat_planner.planner.planning.step import Step
from remat_planner.solvers import Reporter, Solution, SolveOne, curve, solve

Steps = tuple[int, ...]


def solve_budgets(step: Step, points: int, *, reporter: Reporter | None = None) -> dict[int, Solution]:
    """Solutions from the least budget for which a schedule is found to the peak without recomputation, at equal distances.

    They are of the step as eager runs it, and not of its leaner form (``leaner``), which may do with smaller budgets.
    Each solve starts from the schedule of the budget below, and has the settings' seconds and those that others left.
    The keys are the budgets in bytes, the least first; there are fewer where the two ends are close.
    """
    settings = step.settings
    solve_one = _on_gpu(step, reporter)
    least = _least_budget(step, solve_one, reporter)
    highest = max(least, peak_without_recomputation(step))
    budgets = sorted({least + (highest - least) * k // max(1, points - 1) for k in range(points)})
    solutions = curve(
        step.graph,
        budgets,
        solver=settings.solver,
        time_limit=len(budgets) * settings.time_limit,
        reporter=reporter,
        start=known_schedules(step.graph),
        solve_one=solve_one,
    )
    for solution in solutions:
        remember_schedule(step.graph, solution.steps)
    return dict(zip(budgets, solutions, strict=True))


def _least_budget(step: Step, solve_one: SolveOne | None, reporter: Reporter | None) -> int:
    graph, settings, lowest = step.graph, step.settings, max(step.graph.update_peak, 1)
    if solve_one is not None:
        solution = solve_one(lowest, settings.time_limit, known_schedules(graph))
    else:
        options: dict[str, Any] = {"solver": settings.solver, "time_limit": settings.time_limit, "reporter": reporter}
        solution = solve(graph, lowest, start=known_schedules(graph), **options)
    if solution.status != "infeasible":
        return lowest
    remember_schedule(graph, solution.minimum_steps)
    return solution.minimum


def _on_gpu(step: Step, reporter: Reporter | None) -> SolveOne | None:
    """What solves for a budget by the rules of the GPU's allocator; None for a plan for a CPU."""
    peak, settings = allocator_peak_of(step, step.graph), step.settings
    if peak is None:
        return None

    def solve_one(budget: int, seconds: float, start: tuple[Steps, ...]) -> Solution:
        options: dict[str, Any] = {"solver": settings.solver, "time_limit": seconds, "reporter": reporter, "start": start}
        return solve_on_gpu(step.graph, budget, peak, **options)

    return solve_one
