"""``plan export``: a schedule in the form that another trainer takes, as text to put into its code or command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from remat_planner.planner.cli.exit_codes import ExitCode, outcome, print_document
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import Json, ModelSpec, ScheduleFile, loaded_schedule
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.exports import Export, FormName, export
from remat_planner.planner.formatting import format_bytes, format_percent
from remat_planner.planner.model_loading import load_model


def export_command(
    schedule: ScheduleFile,
    model: ModelSpec,
    to: Annotated[
        FormName,
        typer.Option(
            "--to",
            help="a policy for selective checkpointing, modules to wrap, every n layers, or --recompute-* options",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print a schedule in the form that another trainer takes; exits with 3 where that form cannot meet the budget."""
    with outcome(as_json=as_json) as result:
        planned = loaded_schedule(schedule)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            loaded = load_model(model)
            stages.stage("Exporting")
            found = interruptibly(lambda: export(loaded.model, planned, loaded.args, loaded.kwargs, to=to, loss=loaded.loss))
        if as_json:
            kept = {"within_budget": found.within_budget, "loss": found.loss}
            print_document(result, asdict(found) | kept)
        else:
            for line in _comments(found):
                result.file.write(f"# {line}\n")
            result.file.write(found.code)
        if not found.within_budget:
            raise typer.Exit(ExitCode.INFEASIBLE)


def _comments(found: Export) -> Iterator[str]:
    """What it costs, in lines that Python and a shell both pass over."""
    verdict = "met" if found.within_budget else "EXCEEDED: no setting of this form meets it, this one has the lowest peak"
    yield f"Budget    {format_bytes(found.budget)}, {verdict}"
    rows = (
        ("This form", found.peak_bytes, found.overhead),
        ("Schedule ", found.schedule_peak_bytes, found.schedule_overhead),
    )
    for name, peak, overhead in rows:
        yield f"{name} {format_bytes(peak)} at the peak, +{format_percent(overhead)} a step, predicted"
    yield from (f"Note      {note}" for note in found.notes)
