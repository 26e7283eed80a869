"""``plan curve``: extra time against budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.checks import check_solver, check_writable, costs_for
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.offload_options import DiskBudget, DiskLink, HostBudget, Link, Pools, offload_from
from remat_planner.planner.cli.options import BudgetKind, Costs, Device, Json, ModelSpec, OptimizerName, Solver
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.output import print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.cli.training_options import NO_OPTIONS, TrainingOptions, with_training_options
from remat_planner.planner.curve import LEAST_POINTS, curve_for
from remat_planner.planner.model_loading import built_for, load_model
from remat_planner.planner.planning import settings_for
from remat_planner.planner.reports import curve_document, curve_report, drawing
from remat_planner.schedules import TrainingState, write_atomically
from remat_planner.tracer.costs import MEASURE


@with_training_options
def curve_command(
    model: ModelSpec,
    points: Annotated[int, typer.Option(metavar="N", min=LEAST_POINTS, help="budgets, at equal distances")] = 12,
    device: Device = None,
    costs: Costs = MEASURE,
    solver: Solver = "auto",
    optimizer: OptimizerName = None,
    training_options: TrainingOptions = NO_OPTIONS,
    budget_on: BudgetKind = "allocated",
    offload: Pools = None,
    host_budget: HostBudget = None,
    disk_budget: DiskBudget = None,
    link: Link = None,
    disk_link: DiskLink = None,
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving, each budget")] = 20.0,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it into this file", show_default=False)] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it into this file", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Show what each budget costs in time, from the least one that works to the peak without recomputation."""
    with outcome(as_json=as_json) as result:
        check_solver(solver, time_limit)
        costs = costs_for(device, costs)
        training = TrainingState(**training_options)
        copies = offload_from(offload, host_budget, disk_budget, link, disk_link)
        for file in filter(None, (svg, png)):
            check_writable(file)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            with built_for(device):
                loaded = load_model(model)
            stages.stage("Capturing the training step and its costs")
            settings = settings_for(
                loaded.model,
                solver=solver,
                time_limit=time_limit,
                loss=loaded.loss,
                costs=costs,
                optimizer=optimizer,
                training=training,
                budget_on=budget_on,
                offload=copies,
            )
            curve = curve_for(
                loaded.model,
                loaded.args,
                loaded.kwargs,
                points=points,
                settings=settings,
                stage=stages.stage,
                progress=stages.done,
                reporter=stages,
                run=interruptibly,
            )
        if svg is not None:
            write_atomically(svg, drawing(curve, "svg"))
        if png is not None:
            write_atomically(png, drawing(curve, "png"))
        if as_json:
            print_document(result, curve_document(curve))
        else:
            result.print(curve_report(curve))
