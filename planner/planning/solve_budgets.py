"""Many budgets of one step at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from remat_planner.planner.gpu_allocator import solve_on_gpu
from remat_planner.planner.planning.leaner_form import eager_names, in_form
from remat_planner.planner.planning.schedule_cache import known_schedules, remember_schedule
from remat_planner.planner.planning.solve_step import allocator_peak_of, peak_without_recomputation
from remat_planner.planner.planning.step import LeanerStep, Step, forms, has_leaner_form
from remat_planner.solvers import Reporter, Solution, SolveOne, curve, solve, with_bound

Steps = tuple[int, ...]


def solve_budgets(step: Step, points: int, *, reporter: Reporter | None = None) -> dict[int, tuple[Step, Solution]]:
    """Solutions from the least budget for which a schedule is found to the peak without recomputation, at equal distances.

    With the solver "auto" each is of the form of the step that takes least time within its budget: eager's, or a leaner one
    (``forms``). It comes with that form. Its bound holds for all of them.
    Each solve starts from the schedule of the budget below, and has the settings' seconds and those that others left.
    The keys are the budgets in bytes, the least first; there are fewer where the two ends are close.
    """
    settings = step.settings
    tried = [step, *(forms(step) if settings.solver == "auto" and has_leaner_form(step) else ())]
    share = settings.time_limit / len(tried)
    least: list[int] = []
    for form in tried:
        others = _starts(form, known_schedules(step.graph), step)
        least.append(_least_budget(form, _on_gpu(form, reporter), share, others, reporter))
    lowest = min(least)
    highest = max(lowest, peak_without_recomputation(step))
    budgets = sorted({lowest + (highest - lowest) * k // max(1, points - 1) for k in range(points)})
    found: dict[int, tuple[Step, Solution]] = {}
    bounds = dict.fromkeys(budgets, math.inf)
    for form, enough in zip(tried, least, strict=True):
        possible = [budget for budget in budgets if budget >= enough]
        solutions = _solve_form(form, possible, len(budgets) * share, tuple(found.values()), reporter)
        for budget in budgets:  # a bound holds for smaller budgets too
            bounds[budget] = min(bounds[budget], solutions[max(budget, possible[0])].bound if possible else form.graph.seconds)
        for budget, solution in solutions.items():
            if solution.status != "infeasible" and (budget not in found or solution.cost < found[budget][1].cost):
                found[budget] = form, solution
    seconds = step.graph.seconds
    return {budget: (form, with_bound(one, bounds[budget], seconds)) for budget, (form, one) in sorted(found.items())}


def _solve_form(
    form: Step, budgets: list[int], seconds: float, others: tuple[tuple[Step, Solution], ...], reporter: Reporter | None
) -> dict[int, Solution]:
    """Solutions of one form for these budgets; ``others`` are those of other forms."""
    if not budgets:
        return {}
    translated = (start for other, solution in others for start in _starts(form, (solution.steps,), other))
    solutions = curve(
        form.graph,
        budgets,
        solver=form.settings.solver,
        time_limit=seconds,
        reporter=reporter,
        start=(*known_schedules(form.graph), *translated),
        solve_one=_on_gpu(form, reporter),
        order=form.settings.order,
    )
    for solution in solutions:
        remember_schedule(form.graph, solution.steps)
    return dict(zip(budgets, solutions, strict=True))


def _starts(form: Step, schedules: Sequence[Steps], of: Step) -> tuple[Steps, ...]:
    """Schedules ``of`` another form as those of ``form``, where it is a leaner one that can run them."""
    if not isinstance(form, LeanerStep):
        return ()
    return tuple(start for steps in schedules if (start := in_form(form, eager_names(of, steps))) is not None)


def _least_budget(
    form: Step, solve_one: SolveOne | None, seconds: float, starts: tuple[Steps, ...], reporter: Reporter | None
) -> int:
    graph, lowest, starts = form.graph, max(form.graph.update_peak, 1), (*known_schedules(form.graph), *starts)
    if solve_one is not None:
        solution = solve_one(lowest, seconds, starts)
    else:
        options: dict[str, Any] = {"solver": form.settings.solver, "time_limit": seconds, "reporter": reporter}
        options["order"] = form.settings.order
        solution = solve(graph, lowest, start=starts, **options)
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
        return solve_on_gpu(step.graph, budget, peak, order=settings.order, **options)

    return solve_one
