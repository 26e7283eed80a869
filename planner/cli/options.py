"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.schedules import BudgetOn, RegionSchedule, Schedule, load_schedule

MODEL_HELP = (
    "model.py, model.py:name or package.module:name; the function (build, unless named) takes nothing and returns "
    "(model, inputs) or (model, inputs, loss)"
)

ModelSpec = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Solver = Annotated[str, typer.Option(help="one out of `plan solvers`")]
Costs = Annotated[
    str,
    typer.Option(metavar="SOURCE", help="where the seconds come from: measure (on the model's device) or a profile.json"),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="plan for this GPU from its data sheet, with a model that takes no memory here; one out of `plan devices`",
        show_default=False,
    ),
]
OptimizerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="count this optimizer's state and step too: adamw, adamw:fused=True, sgd:momentum=0.9, ...",
        show_default=False,
    ),
]
Regions = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help='plan these modules and run the rest as it is: names ("model.layers.*"), a class, or auto for the repeated blocks',
        show_default=False,
    ),
]
BudgetKind = Annotated[
    BudgetOn,
    typer.Option("--budget-on", help="the bytes that the budget limits on a GPU: those handed out, or those reserved for it"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of the report")]

ScheduleFile = Annotated[Path, typer.Argument(metavar="SCHEDULE", help="a schedule file that plan wrote", show_default=False)]


def loaded_schedule(path: Path) -> Schedule | RegionSchedule:
    """Read a schedule file.

    Raises:
        UsageError: the file cannot be read.
        schedules.ScheduleFileError: it holds no schedule.
    """
    try:
        return load_schedule(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
