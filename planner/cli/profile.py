"""``plan profile``: what every operator of a training step takes on this device, as a file to plan with elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.interruptible import interruptibly
from planner.cli.options import ModelSpec
from planner.cli.outcome import UsageError, outcome
from planner.cli.plan import check_writable
from planner.cli.progress import Stages
from planner.loading import load_model
from planner.step import profile_step
from tracer.costs import PROFILE_SUFFIX


def profile_command(
    model: ModelSpec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the profile file; it ends in .json")] = Path(
        "profile.json"
    ),
) -> None:
    """Measure a model's operators on the device that it is on, for `plan --costs FILE` on another machine."""
    with outcome(as_json=False) as result:
        if output.suffix != PROFILE_SUFFIX:
            raise UsageError(f"{output} does not end in {PROFILE_SUFFIX}, as the profiles of --costs do: name another with -o")
        check_writable(output)
        with Stages(quiet=False) as stages:
            stages.stage(f"Loading {model}")
            loaded = load_model(model)
            stages.stage("Measuring its operators")
            profile = interruptibly(
                lambda: profile_step(
                    loaded.model, loaded.args, loaded.kwargs, path=output, loss=loaded.loss, progress=stages.done
                )
            )
        result.print(
            f"{len(profile.calls):,} operator calls measured on {profile.device}, torch {profile.torch}, written to {output}. "
            f"To plan with it: plan --costs {output} --budget BYTES MODEL",
            soft_wrap=True,
        )
