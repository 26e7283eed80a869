"""``plan curve``: extra time against budget."""

from __future__ import annotations

from remat_planner.planner.cli.arguments import CurveArguments
from remat_planner.planner.cli.checks import check_writable
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.plan_options import plan_options
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.curve import curve_for
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.planning import settings_for
from remat_planner.planner.reports import curve_document, curve_report, drawing
from remat_planner.schedules import write_atomically


def curve_command(result: SafeConsole, asked: CurveArguments) -> None:
    """Show what each budget costs in time, from the least one that works to the peak without recomputation."""
    options = plan_options(asked)
    # The model's code may change the current folder.
    svg, png = (file and file.absolute() for file in (asked.svg, asked.png))
    for file in filter(None, (asked.svg, asked.png)):
        check_writable(file)
    with Stages(quiet=False, time_limit=asked.time_limit) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model, asked.device)
        stages.stage("Capturing the training step and its costs")
        settings = settings_for(loaded.model, loss=loaded.loss, **options)
        curve = curve_for(
            loaded.model,
            loaded.args,
            loaded.kwargs,
            points=asked.points,
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
    if asked.as_json:
        print_document(result, curve_document(curve))
    else:
        result.print(curve_report(curve))
