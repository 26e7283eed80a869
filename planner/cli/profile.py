"""``plan profile``: the seconds and workspace of every operator of a training step on this device, to plan with elsewhere."""

from __future__ import annotations

from remat_planner.planner.cli.arguments import ProfileArguments
from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.planning import profile_step
from remat_planner.tracer.costs import PROFILE_SUFFIX


def profile_command(result: SafeConsole, asked: ProfileArguments) -> None:
    """Measure a model's operators on the device that it is on, for `plan --costs FILE` on another machine."""
    if asked.output.suffix != PROFILE_SUFFIX:
        raise UsageError(
            f"{asked.output} does not end in {PROFILE_SUFFIX}, as the profiles of --costs do: name another with -o"
        )
    check_writable(asked.output)
    file = asked.output.absolute()  # the model's code may change the current folder
    with Stages(quiet=False) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model)
        stages.stage("Measuring its operators")
        profile = interruptibly(
            lambda: profile_step(loaded.model, loaded.args, loaded.kwargs, path=file, loss=loaded.loss, progress=stages.done)
        )
    rates = ""
    if (measured := profile.link) is not None:
        out, back = (f"{format_bytes(channel.bytes_per_second)}/s" for channel in (measured.outgoing, measured.incoming))
        rates = f" and the link to the host: {out} out, {back} in"
    result.print(
        f"{len(profile.calls):,} operator calls measured on {profile.device}, torch {profile.torch}{rates}, written to "
        f"{asked.output}. To plan with it: plan --costs {asked.output} --budget BYTES MODEL",
        soft_wrap=True,
    )
