"""The options of ``TrainingState`` on the command line: one declaration for each of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any

import typer

from remat_planner.schedules import TrainingState

TrainingOptions = Mapping[str, Any]
"""The values of these options by their field of ``TrainingState``."""

NO_OPTIONS: TrainingOptions = MappingProxyType({})

_DECLARATIONS = {
    "gradient_dtype": Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="keep gradients in this dtype: float32, bfloat16", show_default=False),
    ],
    "master_weights": Annotated[
        bool, typer.Option("--master-weights", help="count float32 copies of the parameters, which the optimizer steps on")
    ],
    "shard": Annotated[int, typer.Option(metavar="N", help="divide the training state over N ranks, as FSDP and ZeRO do")],
    "zero_stage": Annotated[
        int,
        typer.Option(
            "--zero", metavar="STAGE", help="what --shard divides: 1 optimizer state, 2 gradients too, 3 parameters too"
        ),
    ],
    "optimizer_offload": Annotated[
        bool, typer.Option("--offload-optimizer", help="the optimizer, its state and the master weights are on the host")
    ],
    "accumulate": Annotated[
        bool,
        typer.Option("--accumulate", help="gradients are added to those of the steps before, which are there all the time"),
    ],
    "gradient_buckets": Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="count the buckets of DistributedDataParallel: copied, or views where gradients are kept in them",
            show_default=False,
        ),
    ],
}


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, in which one option for each field replaces the parameter ``training_options``, which gets their values.

    The command builds the ``TrainingState`` itself, so that it reports a bad value as it reports its other errors.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]
    place = list(signature.parameters).index("training_options")
    parameters[place : place + 1] = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=_DECLARATIONS[field.name]
        )
        for field in fields(TrainingState)
    ]

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in _DECLARATIONS}
        command(**arguments, training_options=options)

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options
