"""``remat_planner.curve``: what each budget of a model's training step costs in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from remat_planner.planner.plan import PLANNING, Run, refuse_applied, trace_whole
from remat_planner.planner.planning import (
    Loss,
    Offload,
    Progress,
    Settings,
    Step,
    peak_function,
    peak_without_recomputation,
    settings_for,
    solve_budgets,
)
from remat_planner.planner.reports import BudgetCurve, CurvePoint, usual_policies
from remat_planner.schedules import BudgetOn, TrainingState, Variants
from remat_planner.solvers import Order, Reporter, Solution, Solver

LEAST_POINTS = 2


def curve(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    points: int = 12,
    solver: str | Solver = "auto",
    time_limit: float = 20.0,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str | Optimizer | None = None,
    training: TrainingState | None = None,
    budget_on: BudgetOn = "allocated",
    offload: Offload | None = None,
    variants: Variants = "exact",
    order: Order = "given",
) -> BudgetCurve:
    """Extra time against budget, from the least budget for which a schedule is found to the peak without recomputation.

    The step is captured once. Each budget starts from the schedule of the one below, and a bound holds for all smaller budgets.
    A model that cannot be captured whole has no curve: regions prove no bound.

    Args:
        model, args, kwargs, solver, loss, costs, optimizer, training, budget_on, variants, order: as of ``plan``.
        offload: as ``remat_planner.plan`` takes it; the curve then has a second line, with copies.
        points: number of budgets, at equal distances; two or more.
        time_limit: seconds for solving, for each budget; what one leaves, the others share.

    Raises:
        ValueError: ``points`` is below two.
        AlreadyAppliedError: the model, or a module inside it, has a schedule already.
        tracer.CaptureError: the model cannot be captured whole; the message says why.
        BudgetError, OffloadError, OptimizerError, TrainingStateError, UnknownSolverError, SolverMissingError: as
            ``remat_planner.plan`` does.
    """
    refuse_applied(model)
    settings = settings_for(
        model,
        solver=solver,
        time_limit=time_limit,
        loss=loss,
        costs=costs,
        optimizer=optimizer,
        training=training,
        budget_on=budget_on,
        offload=offload,
        variants=variants,
        order=order,
    )
    with PLANNING:
        return curve_for(model, args, kwargs, points=points, settings=settings)


def curve_for(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    points: int,
    settings: Settings,
    stage: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
    reporter: Reporter | None = None,
    run: Run = lambda work: work(),
) -> BudgetCurve:
    """``curve`` with checked settings.

    Args:
        model, args, kwargs, points: as of ``curve``.
        settings: what to plan with; their time limit is for each budget.
        stage: called with the name of each stage after the capture.
        progress: called while ops are costed.
        reporter: receives the progress of each solve.
        run: runs what follows the capture, in another thread for instance.

    Raises:
        ValueError: ``points`` is below two.
        tracer.CaptureError: the model cannot be captured whole.
    """
    if points < LEAST_POINTS:
        raise ValueError(f"a curve of {points} points: give {LEAST_POINTS} or more")
    step = trace_whole(model, args, kwargs, settings=settings, progress=progress)
    plain = replace(step, graph=step.graph.without_transfers)
    stage(f"Solving for {points} budgets")
    solutions = run(lambda: solve_budgets(plain, points, reporter=reporter))
    with_copies: Mapping[int, tuple[Step, Solution]] = {}
    if step.graph.pools:
        stage(f"Solving for {points} budgets, with copies")
        with_copies = run(lambda: solve_budgets(step, points, reporter=reporter))
    stage("Comparing with the usual policies")
    policies = run(lambda: usual_policies(plain.graph, list(solutions), peak_function(plain, plain.graph)))
    return BudgetCurve(
        model=step.origin.model,
        device=step.origin.device,
        costs=step.origin.costs,
        optimizer=step.origin.optimizer,
        baseline_seconds=step.graph.seconds,
        baseline_peak_bytes=peak_without_recomputation(plain),
        points=_points(plain, solutions),
        policies=policies,
        with_copies=_points(step, with_copies),
    )


def _points(step: Step, solutions: Mapping[int, tuple[Step, Solution]]) -> tuple[CurvePoint, ...]:
    seconds = step.graph.seconds

    def overhead(taken: float) -> float:
        return max(0.0, taken / seconds - 1) if seconds else 0.0

    return tuple(
        CurvePoint(
            budget_bytes=budget,
            peak_bytes=peak_function(form, form.graph)(solution.steps),
            overhead=overhead(solution.cost),
            bound_overhead=overhead(solution.bound),
            status=solution.status,
            solver=solution.solver,
            assumption=solution.assumption,
        )
        for budget, (form, solution) in solutions.items()
    )
