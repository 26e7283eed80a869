"""The compilers that ``apply_schedule(..., compiler=...)`` accepts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from remat_planner.planner.compile.pieces import Supported
from remat_planner.planner.errors import CompilerError
from remat_planner.planner.torch_private import compiled_by_inductor, inductor_missing, inductor_supports

NAMES = ("inductor",)

PieceCode = Callable[[list[Any]], Sequence[Any]]
"""Takes a list of values, which it empties; returns the results of the piece."""

# Equal pieces, of repeated layers and equal regions, are compiled once while one of them is in use.
_compiled: weakref.WeakValueDictionary[Any, PieceCode] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Compiler:
    """Turns pieces into code.

    Attributes:
        name: what users call it.
        supported: whether it has code for an operator.
        compile: the code of a graph; its placeholders are described by the fake tensors of the second argument.
    """

    name: str
    supported: Supported
    compile: Callable[[fx.GraphModule, list[torch.Tensor]], PieceCode]


def check_compiler(name: str, tensors: Iterable[torch.Tensor]) -> None:
    """Refuse an unknown compiler, and one that lacks something for the devices of ``tensors``.

    Raises:
        CompilerError: the compiler cannot be used.
    """
    if name not in NAMES:
        raise CompilerError(f"unknown compiler {name!r}: choose {' or '.join(map(repr, NAMES))}", compiler=name)
    for device in dict.fromkeys(tensor.device for tensor in tensors):
        missing = inductor_missing(device)
        if missing:
            raise CompilerError(
                f"{name} needs {missing} to compile for {device}, and this machine has none that works. Without compiler= the "
                "schedule runs too, by PyTorch's own kernels",
                compiler=name,
            )


def refuse_copies(name: str, pools: Collection[str]) -> None:
    """Refuse a schedule that copies activations to ``pools``, unless there are none.

    Raises:
        CompilerError: there are.
    """
    if pools:
        raise CompilerError(
            f"the schedule copies activations to the {' and the '.join(pools)}, which {name} cannot compile: plan without "
            "offload, or apply the schedule without a compiler",
            compiler=name,
        )


def compiler_named(name: str) -> Compiler:
    """The compiler ``name``, which ``check_compiler`` has accepted."""
    return Compiler(name, inductor_supports, _by_inductor)


def _by_inductor(module: fx.GraphModule, inputs: list[torch.Tensor]) -> PieceCode:
    key = (module.code, tuple((t.shape, t.stride(), t.dtype, t.device) for t in inputs))
    code = _compiled.get(key)
    if code is None:
        operators = ", ".join(dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "call_function"))
        try:
            code = _compiled[key] = compiled_by_inductor(module, inputs)
        except Exception as error:
            raise CompilerError(
                f"inductor cannot compile a piece of the schedule ({type(error).__name__}: {error}). Its operators: "
                f"{operators}. Apply the schedule without compiler=",
                compiler="inductor",
            ) from error
    return code
