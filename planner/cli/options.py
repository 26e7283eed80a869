"""Options and arguments that several commands share, each declared once.

This file and those that it serves (``arguments``, ``command``) import neither torch nor anything that does, so that help and
completion come at once. A test compares the choices and defaults written here with those of the rooms that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

MODEL_HELP = (
    "model.py, model.py:name or package.module:name; the function (build, unless named) takes nothing and returns "
    "(model, inputs) or (model, inputs, loss)"
)
MEASURE = "measure"
_MEMORY = "What the training state takes"
_COPIES = "Copies to the host or a disk"


def _files(incomplete: str, *endings: str) -> Iterator[str]:
    """The folders and the files with one of ``endings`` that a path may go on to."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        name = f"{entry}/" if entry.is_dir() else str(entry)
        if name.startswith(incomplete) and not entry.name.startswith(".") and (entry.is_dir() or name.endswith(endings)):
            yield name


def _models(ctx: typer.Context, incomplete: str) -> list[str]:
    words = getattr(ctx.command, "commands", {})  # the main job's model may be a word instead
    return [*(word for word in words if word.startswith(incomplete)), *_files(incomplete, ".py")]


def _schedules(incomplete: str) -> list[str]:
    return list(_files(incomplete, ".json"))


ModelSpec = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False, autocompletion=_models)]
ScheduleFile = Annotated[
    Path,
    typer.Argument(metavar="SCHEDULE", help="a schedule file that plan wrote", show_default=False, autocompletion=_schedules),
]
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
        rich_help_panel=_MEMORY,
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
    Literal["allocated", "reserved"],
    typer.Option("--budget-on", help="the bytes that the budget limits on a GPU: those handed out, or those reserved for it"),
]
VariantsKind = Annotated[
    Literal["exact", "any"],
    typer.Option(
        "--variants",
        help="operators with eager's bits, or also a loss head in chunks, whose gradients are close to eager's",
    ),
]
OrderKind = Annotated[
    Literal["given", "any"],
    typer.Option("--order", help="keep the order of first executions, or let them move too wherever the bits stay"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of the report")]

GradientDtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="keep gradients in this dtype: float32, bfloat16",
        show_default=False,
        rich_help_panel=_MEMORY,
    ),
]
MasterWeights = Annotated[
    bool,
    typer.Option(
        "--master-weights",
        help="count float32 copies of the parameters, which the optimizer steps on",
        rich_help_panel=_MEMORY,
    ),
]
Shard = Annotated[
    int,
    typer.Option(metavar="N", help="divide the training state over N ranks, as FSDP and ZeRO do", rich_help_panel=_MEMORY),
]
ZeroStage = Annotated[
    int,
    typer.Option(
        "--zero",
        metavar="STAGE",
        help="what --shard divides: 1 optimizer state, 2 gradients too, 3 parameters too",
        rich_help_panel=_MEMORY,
    ),
]
OptimizerOffload = Annotated[
    bool,
    typer.Option(
        "--offload-optimizer",
        help="the optimizer, its state and the master weights are on the host",
        rich_help_panel=_MEMORY,
    ),
]
Accumulate = Annotated[
    bool,
    typer.Option(
        "--accumulate",
        help="gradients are added to those of the steps before, which are there all the time",
        rich_help_panel=_MEMORY,
    ),
]
Outputs = Annotated[
    Literal["held", "dropped"],
    typer.Option(
        help="whether the training loop holds what the model returns through the backward, or has dropped it by then",
        rich_help_panel=_MEMORY,
    ),
]
GradientBuckets = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="count the buckets of DistributedDataParallel: copied, or views where gradients are kept in them",
        show_default=False,
        rich_help_panel=_MEMORY,
    ),
]

Pools = Annotated[
    list[str] | None,
    typer.Option(
        "--offload",
        metavar="POOL",
        help="copy activations too, to host or disk:FOLDER; give it twice for both",
        show_default=False,
        rich_help_panel=_COPIES,
    ),
]
HostBudget = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help='what copies may take of the host\'s memory: "64GB"',
        show_default=False,
        rich_help_panel=_COPIES,
    ),
]
DiskBudget = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help='what copies may take of the disk: "500GB"',
        show_default=False,
        rich_help_panel=_COPIES,
    ),
]
Link = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help='of the link to the host: "50GB/s" or "out=170GB/s,in=411GB/s"; else measured on the device at hand, or from '
        "`plan devices`",
        show_default=False,
        rich_help_panel=_COPIES,
    ),
]
DiskLink = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="of the disk; else measured in its folder", show_default=False, rich_help_panel=_COPIES),
]
