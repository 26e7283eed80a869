"""``plan fit``: the largest batch within a budget, and how many samples a second each batch is predicted to make."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from remat_planner.planner.cli.checks import sheet_of
from remat_planner.planner.cli.exit_codes import UsageError, outcome, print_document
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import (
    Accumulate,
    BudgetKind,
    Costs,
    Device,
    GradientBuckets,
    GradientDtype,
    Json,
    MasterWeights,
    ModelSpec,
    OffloadOptimizer,
    OptimizerName,
    Shard,
    Solver,
    ZeroStage,
)
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.model_loading import built_for, load_model
from remat_planner.planner.planning import MOST, Fit, Try, fit
from remat_planner.solvers.registry import get as get_solver
from remat_planner.tracer.costs import MEASURE


def fit_command(
    model: ModelSpec,
    budget: Annotated[
        str, typer.Option("--budget", "-b", metavar="BYTES", help='"40GB", "512MiB", or "auto" on a GPU', show_default=False)
    ],
    device: Device = None,
    costs: Costs = MEASURE,
    solver: Solver = "auto",
    optimizer: OptimizerName = None,
    gradient_dtype: GradientDtype = None,
    master_weights: MasterWeights = False,
    shard: Shard = 1,
    zero_stage: ZeroStage = 3,
    offload_optimizer: OffloadOptimizer = False,
    accumulate: Accumulate = False,
    gradient_buckets: GradientBuckets = None,
    budget_on: BudgetKind = "allocated",
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving, each batch")] = 20.0,
    as_json: Json = False,
) -> None:
    """Find the largest batch whose training step fits a budget; the batch is the first dimension of the inputs."""
    with outcome(as_json=as_json) as result:
        get_solver(solver)
        if not time_limit >= 0:  # NaN too
            raise UsageError(f"the time limit is {time_limit:g} seconds: give zero or more")
        if device is not None:
            costs = sheet_of(device, costs)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            with built_for(device):
                loaded = load_model(model)
            found = interruptibly(
                lambda: fit(
                    loaded.model,
                    loaded.args,
                    loaded.kwargs,
                    budget=budget,
                    solver=solver,
                    time_limit=time_limit,
                    loss=loaded.loss,
                    costs=costs,
                    optimizer=optimizer,
                    gradient_dtype=gradient_dtype,
                    master_weights=master_weights,
                    shard=shard,
                    zero_stage=zero_stage,
                    optimizer_offload=offload_optimizer,
                    accumulate=accumulate,
                    gradient_buckets=gradient_buckets,
                    budget_on=budget_on,
                    trying=lambda batch: stages.stage(f"Planning a batch of {batch:,}"),
                )
            )
        if as_json:
            print_document(result, _document(found))
            return
        result.print(f"Budget  {found.budget.describe(found.budget.resolve(0))}")
        result.print(f"Batch   first dimension of {', '.join(found.batches.scaled)}; {found.batches.size:,} as given")
        result.print(_table(found))
        result.print(_conclusion(found))


def _conclusion(found: Fit) -> str:
    largest, fastest = found.largest, found.fastest
    next_one = min((t.batch for t in found.tries if t.schedule is None), default=None)
    limit = f"; larger ones than {MOST:,} are not tried" if next_one is None else f"; {next_one:,} was not found to"
    conclusion = f"A batch of {largest.batch:,} fits{limit}."
    if fastest.batch != largest.batch:
        conclusion += f" A batch of {fastest.batch:,} makes more samples a second."
    return conclusion


def _table(found: Fit) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    tokens = found.batches.tokens
    for title in ("batch", "peak", "extra time", "step", "samples/s", *(("tokens/s",) if tokens else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for tried in found.tries:
        if (schedule := tried.schedule) is None:
            needed = f"needs {format_bytes(tried.minimum or 0)}"
            table.add_row(f"{tried.batch:,}", needed, *["-"] * (len(table.columns) - 2))
            continue
        extra = format_percent(schedule.seconds / schedule.baseline_seconds - 1)
        rates = [tried.samples_per_second, *([tried.samples_per_second * tokens] if tokens else [])]
        step = format_seconds(schedule.seconds)
        table.add_row(f"{tried.batch:,}", format_bytes(schedule.peak_bytes), f"+{extra}", step, *(f"{r:,.4g}" for r in rates))
    return table


def _document(found: Fit) -> dict[str, Any]:
    return {
        "budget_bytes": found.budget.bytes,
        "batch_inputs": list(found.batches.scaled),
        "largest_batch": found.largest.batch,
        "fastest_batch": found.fastest.batch,
        "tries": [_try_document(tried, found.batches.tokens) for tried in found.tries],
    }


def _try_document(tried: Try, tokens: int | None) -> dict[str, Any]:
    if (schedule := tried.schedule) is None:
        return {"batch": tried.batch, "fits": False, "minimum_bytes": tried.minimum}
    return {
        "batch": tried.batch,
        "fits": True,
        "peak_bytes": schedule.peak_bytes,
        "seconds": schedule.seconds,
        "baseline_seconds": schedule.baseline_seconds,
        "status": schedule.status,
        "samples_per_second": tried.samples_per_second,
        "tokens_per_second": tried.samples_per_second * tokens if tokens else None,
    }
