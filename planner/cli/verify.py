"""``plan verify``: a schedule's real training step beside eager's."""

from __future__ import annotations

import typer

from remat_planner.planner.cli.arguments import VerifyArguments
from remat_planner.planner.cli.checks import loaded_schedule
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.reports import summarize_verification, verification_document, verification_report
from remat_planner.planner.verify import verify


def verify_command(result: SafeConsole, asked: VerifyArguments) -> None:
    """Run a schedule's real training step beside eager's: compare every bit and measure the peak."""
    planned = loaded_schedule(asked.schedule)
    with Stages(quiet=False) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model)
        stages.stage("Verifying")
        found = verify(loaded.model, planned, loaded.args, loaded.kwargs, loss=loaded.loss, disk_folder=asked.disk_folder)
        verification = summarize_verification(found)
    if asked.as_json:
        print_document(result, verification_document(verification))
    else:
        result.print(verification_report(verification))
    if not verification.passed:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)
