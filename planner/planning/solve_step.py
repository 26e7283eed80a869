"""TODO: ."""

from __future__ import annotations

import math
from typing import Any

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.gpu_allocator import Taken, allocator_bytes, solve_on_gpu
from remat_planner.planner.planning.budget import Budget, parse_budget
from remat_planner.planner.planning.captures import remember_capture
from remat_planner.planner.planning.free_savings import is_free, save_for_free
from remat_planner.planner.planning.schedule_cache import remember_found, schedules_found
from remat_planner.planner.planning.step import Step
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import Deadline, Reporter, Solution, solve


def schedule_step(step: Step, budget: Budget | int | str, *, reporter: Reporter | None = None) -> Schedule:
    """Find a schedule for a traced step; ``plan`` says what it means and raises."""
    graph = step.graph
    solver, time_limit = step.settings.solver, step.settings.time_limit
    taken = _allocator_bytes(step)
    asked = budget if isinstance(budget, Budget) else parse_budget(budget)
    limit = asked.resolve(peak_without_recomputation(step))
    if graph.update and limit < graph.update_peak:
        raise _too_small_for_the_update(graph, limit)
    known = schedules_found(graph.fingerprint) if solver == "auto" else ()
    deadline = Deadline(time_limit)
    options: dict[str, Any] = {"solver": solver, "time_limit": time_limit, "reporter": reporter, "start": known}
    solution = solve(graph, limit, **options) if taken is None else solve_on_gpu(graph, limit, taken, **options)
    if solution.status == "infeasible":
        remember_found(graph.fingerprint, solution.minimum_steps)
        raise _infeasible(graph, solution, limit)
    steps = solution.steps
    if solver == "auto" and is_free(graph, solution.cost):
        saving = save_for_free(graph, solution, deadline)
        steps = saving if taken is None or taken(saving) <= limit else steps
    remember_found(graph.fingerprint, steps)
    schedule = Schedule(
        graph=graph,
        steps=steps,
        budget=limit,
        solver=solution.solver,
        status="optimal" if solution.status == "optimal" else "feasible",
        bound_seconds=solution.bound,
        assumption=solution.assumption,
        origin=step.origin,
    )
    remember_capture(schedule, step)
    return schedule


def peak_without_recomputation(step: Step) -> int:
    """Bytes of the step in the framework's own order; on a GPU, those that its allocator hands out or reserves for it."""
    taken, unplanned = _allocator_bytes(step), range(len(step.graph.ops))
    return simulate(step.graph, unplanned).peak_bytes if taken is None else taken(unplanned)


def _allocator_bytes(step: Step) -> Taken | None:
    if step.origin.allocation_block == 1:
        return None
    return allocator_bytes(step.graph, reserved=step.settings.budget_on == "reserved")


def _too_small_for_the_update(graph: Graph, budget: int) -> InfeasibleBudgetError:
    shares = ", ".join(f"{name} {size:,}" for name, size in graph.constants.items() if size)
    return InfeasibleBudgetError(
        f"the optimizer's step alone takes {graph.update_peak:,} bytes, more than the budget of {budget:,}: {shares}, outputs "
        f"and gradients {graph.lasting_bytes:,}, and its own intermediates {graph.update:,}. No recomputation changes that. "
        "Raise the budget to that, or take an optimizer whose step needs less (fused=True, or foreach=False).",
        budget=budget,
        minimum=graph.update_peak,
        bottleneck="optimizer step",
        proven=True,
    )


def _infeasible(graph: Graph, solution: Solution, budget: int) -> InfeasibleBudgetError:
    proven = math.isinf(solution.bound)
    found = f"exists ({solution.assumption})" if proven else "was found"
    reason = ""
    if budget <= graph.constant_bytes:
        shares = ", ".join(f"{name} {size:,}" for name, size in graph.constants.items() if size)
        reason = f": {graph.constant_bytes:,} bytes are there all the time ({shares}), before any activation"
    return InfeasibleBudgetError(
        f"no schedule {found} within {budget:,} bytes{reason}. The least budget for which one "
        f"was found is {solution.minimum:,} bytes, set by {solution.bottleneck}. Raise the budget to that, or make the batch "
        "smaller.",
        budget=budget,
        minimum=solution.minimum,
        bottleneck=solution.bottleneck or "",
        proven=proven,
    )
