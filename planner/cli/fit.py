"""``plan fit``: the largest batch within a budget, and the predicted samples a second of each batch."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from remat_planner.planner.cli.arguments import FitArguments
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.plan_options import plan_options
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes, format_percent, format_seconds
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.planning import LARGEST_BATCH, Fit, Try, fit
from remat_planner.planner.reports import plain_table


def fit_command(result: SafeConsole, asked: FitArguments) -> None:
    """Find the largest batch whose training step fits a budget; the batch is the first dimension of the inputs."""
    options = plan_options(asked)
    with Stages(quiet=False, time_limit=asked.time_limit) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model, asked.device)
        fitted = interruptibly(
            lambda: fit(
                loaded.model,
                loaded.args,
                loaded.kwargs,
                budget=asked.budget,
                loss=loaded.loss,
                **options,
                trying=lambda batch: stages.stage(f"Planning a batch of {batch:,}"),
            )
        )
    if asked.as_json:
        print_document(result, _document(fitted))
        return
    result.print(f"Budget  {fitted.budget.describe(fitted.budget.resolve(0))}")
    result.print(f"Batch   first dimension of {', '.join(fitted.batches.scaled)}; {fitted.batches.size:,} as given")
    result.print(_table(fitted))
    result.print(_conclusion(fitted))


def _conclusion(fitted: Fit) -> str:
    largest, fastest = fitted.largest, fitted.fastest
    next_batch = min((t.batch for t in fitted.tries if t.schedule is None), default=None)
    limit = (
        f"; larger ones than {LARGEST_BATCH:,} are not tried" if next_batch is None else f"; {next_batch:,} was not found to"
    )
    conclusion = f"A batch of {largest.batch:,} fits{limit}."
    if fastest.batch != largest.batch:
        conclusion += f" A batch of {fastest.batch:,} makes more samples a second."
    return conclusion


def _table(fitted: Fit) -> Table:
    table = plain_table()
    tokens = fitted.batches.tokens
    for title in ("batch", "peak", "extra time", "step", "samples/s", *(("tokens/s",) if tokens else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for tried in fitted.tries:
        if (schedule := tried.schedule) is None:
            needed = f"needs {format_bytes(tried.minimum or 0)}"
            table.add_row(f"{tried.batch:,}", needed, *["-"] * (len(table.columns) - 2))
            continue
        extra = format_percent(schedule.seconds / schedule.baseline_seconds - 1)
        rates = [tried.samples_per_second, *([tried.samples_per_second * tokens] if tokens else [])]
        step = format_seconds(schedule.seconds)
        table.add_row(f"{tried.batch:,}", format_bytes(schedule.peak_bytes), f"+{extra}", step, *(f"{r:,.4g}" for r in rates))
    return table


def _document(fitted: Fit) -> dict[str, Any]:
    return {
        "budget_bytes": fitted.budget.bytes,
        "batch_inputs": list(fitted.batches.scaled),
        "largest_batch": fitted.largest.batch,
        "fastest_batch": fitted.fastest.batch,
        "tries": [_try_document(tried, fitted.batches.tokens) for tried in fitted.tries],
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
