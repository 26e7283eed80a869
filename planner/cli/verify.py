"""``plan verify``: a schedule's real training step beside eager's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.options import Json, ModelSpec, ScheduleFile, loaded_schedule
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.output import print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.reports import summarize_verification, verification_document, verification_report
from remat_planner.planner.verify import verify


def verify_command(
    schedule: ScheduleFile,
    model: ModelSpec,
    disk_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where the copies of a schedule with --offload disk go", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a schedule's real training step beside eager's: compare every bit and measure the peak."""
    with outcome(as_json=as_json) as result:
        planned = loaded_schedule(schedule)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            loaded = load_model(model)
            stages.stage("Verifying")
            found = verify(loaded.model, planned, loaded.args, loaded.kwargs, loss=loaded.loss, disk_folder=disk_folder)
            verification = summarize_verification(found)
        if as_json:
            print_document(result, verification_document(verification))
        else:
            result.print(verification_report(verification))
        if not verification.passed:
            raise typer.Exit(ExitCode.VERIFICATION_FAILED)
