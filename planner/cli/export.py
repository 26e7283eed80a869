"""``plan export``: a schedule as the setting of another trainer, printed as code or as command-line options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import typer

from remat_planner.planner.cli.arguments import ExportArguments
from remat_planner.planner.cli.checks import loaded_schedule
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole, print_document, printable
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.exports import Export, export
from remat_planner.planner.formatting import format_bytes, format_percent
from remat_planner.planner.model_loading import load_model


def export_command(result: SafeConsole, asked: ExportArguments) -> None:
    """Print a schedule in the form that another trainer takes; exits with 3 where that form cannot meet the budget."""
    planned = loaded_schedule(asked.schedule)
    with Stages(quiet=False) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model)
        stages.stage("Exporting")
        exported = interruptibly(
            lambda: export(loaded.model, planned, loaded.args, loaded.kwargs, to=asked.to, loss=loaded.loss)
        )
    if asked.as_json:
        print_document(result, asdict(exported) | {"within_budget": exported.within_budget, "loss": exported.loss})
    else:
        comments = "".join(f"# {printable(line)}\n" for line in _comments(exported))
        result.write(comments + exported.code)
    if not exported.within_budget:
        raise typer.Exit(ExitCode.INFEASIBLE)


def _comments(exported: Export) -> Iterator[str]:
    """The cost, in lines that are comments to Python and to a shell."""
    verdict = "met" if exported.within_budget else "EXCEEDED: no setting of this form meets it, this one has the lowest peak"
    yield f"Budget    {format_bytes(exported.budget)}, {verdict}"
    rows = (
        ("This form", exported.peak_bytes, exported.overhead),
        ("Schedule ", exported.schedule_peak_bytes, exported.schedule_overhead),
    )
    for name, peak, overhead in rows:
        yield f"{name} {format_bytes(peak)} at the peak, +{format_percent(overhead)} a step, predicted"
    yield from (f"Note      {note}" for note in exported.notes)
