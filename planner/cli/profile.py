"""``plan profile``: the seconds and workspace of every operator of a training step on this device, to plan with elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.options import ModelSpec
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.planning import profile_step
from remat_planner.tracer.costs import PROFILE_SUFFIX


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
        rates = ""
        if (measured := profile.link) is not None:
            out, back = (f"{format_bytes(channel.bytes_per_second)}/s" for channel in (measured.outgoing, measured.incoming))
            rates = f" and the link to the host: {out} out, {back} in"
        result.print(
            f"{len(profile.calls):,} operator calls measured on {profile.device}, torch {profile.torch}{rates}, written to "
            f"{output}. To plan with it: plan --costs {output} --budget BYTES MODEL",
            soft_wrap=True,
        )
