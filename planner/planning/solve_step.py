"""From a traced step and a budget to a schedule: solve, save what costs next to no time, and remember the results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.gpu_allocator import AllocatorPeak, allocator_peak, solve_on_gpu
from remat_planner.planner.planning.budget import LEAST_FOUND, Budget, parse_budget
from remat_planner.planner.planning.captures import remember_budget, remember_capture
from remat_planner.planner.planning.free_savings import is_free, save_for_free
from remat_planner.planner.planning.infeasible import no_schedule_error, update_error
from remat_planner.planner.planning.leaner_form import better_in_leaner_form
from remat_planner.planner.planning.schedule_cache import (
    known_schedules,
    remember_leanest,
    remember_schedule,
    schedules_of_other_sizes,
)
from remat_planner.planner.planning.step import LeanerStep, Step, has_leaner_form
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import Deadline, Reporter, Solution, Solver, solve

Steps = tuple[int, ...]

_SHARE_OF_EAGER = 0.6
"""Share of the time for eager's form of a step that has leaner ones; these start from what was found."""
_SHARE_OF_EAGERS_BITS = 0.3
"""Share of the time for eager's form where bits may differ: the others have more to gain."""
_LARGE = 1500
"""Ops; with so many eager's form may need all of the time: a decoder of 7B parameters within 60 s on a busy machine."""


def schedule_step(
    step: Step, budget: Budget | int | str, *, reporter: Reporter | None = None, enough: float | None = None
) -> Schedule:
    """Find a schedule for a traced step; see ``remat_planner.plan`` for the meaning of ``budget``.

    With the solver "auto", earlier schedules of the same graph are starting points, and the result includes free savings. Where
    it would recompute, and time is left, its leaner form is solved too (``leaner``).

    Args:
        step: the traced step.
        budget: bytes, or a share of the peak without recomputation.
        reporter: receives progress.
        enough: with the solver "auto", a schedule that is known already, perhaps of a step with other sizes, is taken without
            a search if it fits and takes at most this much more time, as a fraction of the step without recomputation.

    Raises:
        BudgetError: the budget is not a number of bytes.
        InfeasibleBudgetError: no schedule was found within the budget.
    """
    graph, settings = step.graph, step.settings
    asked = budget if isinstance(budget, Budget) else parse_budget(budget)
    if asked.least:
        schedule = schedule_step(step, Budget(bytes=least_budget(step), origin=LEAST_FOUND), reporter=reporter)
        remember_budget(schedule, asked)
        return schedule
    baseline = peak_without_recomputation(step)
    limit = asked.resolve(baseline)
    if graph.update and limit < graph.update_peak:
        raise update_error(graph, limit, baseline)
    automatic = settings.solver == "auto"
    deadline = Deadline(settings.time_limit)

    def solution_of(step: Step, solver: str | Solver, seconds: float, start: tuple[Steps, ...] = ()) -> Solution:
        start = (*start, *known_schedules(step.graph)) if automatic else ()
        if automatic and enough is not None:
            start = (*start, *schedules_of_other_sizes(step.graph))
        peak = allocator_peak_of(step, step.graph)
        options: dict[str, Any] = {"solver": solver, "time_limit": seconds, "reporter": reporter, "start": start}
        options["order"] = settings.order
        return solve(step.graph, limit, **options) if peak is None else solve_on_gpu(step.graph, limit, peak, **options)

    if automatic and enough is not None:
        known = solution_of(step, "none", deadline.remaining)
        if known.status != "infeasible" and known.cost <= (1 + enough) * graph.seconds:
            return _schedule(step, limit, replace(known, solver="auto"), asked)
    has_forms = automatic and has_leaner_form(step)
    share = 1.0
    if has_forms and settings.variants == "any":
        share = _SHARE_OF_EAGERS_BITS
    elif has_forms and len(graph.ops) < _LARGE:
        share = _SHARE_OF_EAGER
    solution = solution_of(step, settings.solver, deadline.remaining * share)
    is_saving = automatic and solution.status != "infeasible" and is_free(graph, solution.cost)
    if has_forms and not is_saving:
        step, solution = better_in_leaner_form(
            step,
            solution,
            limit,
            solved=lambda lean, start, seconds: solution_of(lean, settings.solver, seconds, start),
            peak_of=lambda other: peak_function(other, other.graph),
            deadline=deadline,
        )
    if solution.status == "infeasible":
        remember_schedule(step.graph, solution.minimum_steps)
        if isinstance(step, LeanerStep):
            remember_leanest(graph, {"whole": step.whole, "overwriting": step.overwriting, "chunks": step.chunks})
        raise no_schedule_error(step.graph, solution, limit, baseline, settings.order)
    if is_saving and not simulate(graph, solution.steps).traffic:
        saving = save_for_free(graph.without_transfers, solution, deadline, settings.order)
        peak = allocator_peak_of(step, graph)
        if peak is None or peak(saving) <= limit:
            solution = replace(solution, steps=saving)
    return _schedule(step, limit, solution, asked)


def _schedule(step: Step, budget: int, solution: Solution, asked: Budget) -> Schedule:
    """The schedule of ``solution``, which later plans know; ``asked`` is the budget as it was given."""
    remember_schedule(step.graph, solution.steps)
    schedule = Schedule(
        graph=step.graph,
        steps=solution.steps,
        budget=budget,
        solver=solution.solver,
        status="optimal" if solution.status == "optimal" else "feasible",
        bound_seconds=solution.bound,
        assumption=solution.assumption,
        origin=step.origin,
    )
    remember_capture(schedule, step)
    remember_budget(schedule, asked)
    return schedule


def least_budget(step: Step) -> int:
    """The least budget in bytes for which a schedule was found; with it, ``schedule_step`` finds one."""
    try:
        return schedule_step(step, max(step.graph.update_peak, 1)).budget
    except InfeasibleBudgetError as error:
        return error.minimum


def peak_function(step: Step, graph: Graph) -> AllocatorPeak:
    """Peak bytes of a sequence of executions of ``graph``, that of ``step``; on a GPU, those that its allocator counts."""
    return allocator_peak_of(step, graph) or (lambda executions: simulate(graph, executions).peak_bytes)


def peak_without_recomputation(step: Step) -> int:
    """Peak bytes of the step in the framework's own order; on a GPU, the bytes that its allocator hands out or reserves."""
    return peak_function(step, step.graph.eager)(range(len(step.graph.ops)))


def allocator_peak_of(step: Step, graph: Graph) -> AllocatorPeak | None:
    """The peak of ``graph``, that of ``step``, by the GPU allocator's rules; None for a plan for a CPU."""
    if step.origin.allocation_block == 1:
        return None
    return allocator_peak(graph, reserved=step.settings.budget_on == "reserved")
