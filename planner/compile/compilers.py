"""The compilers that ``apply_schedule(..., compiler=...)`` knows."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from remat_planner.planner.compile.program import Compiler
from remat_planner.planner.errors import CompilerError
from remat_planner.planner.torch_private import compiled_by_inductor, inductor_missing, inductor_supports

NAMES = ("inductor",)

# Equal pieces, of repeated layers and of equal regions, are compiled once for as long as one of them is in use.
_known: weakref.WeakValueDictionary[Any, Callable[[list[Any]], Any]] = weakref.WeakValueDictionary()


def check_compiler(name: str, tensors: Iterable[torch.Tensor]) -> None:
    """Refuse a compiler that is not known, or that has not what it needs for the devices of ``tensors``.

    Raises:
        CompilerError: it cannot be used.
    """
    if name not in NAMES:
        raise CompilerError(f"there is no compiler {name!r}: {', '.join(map(repr, NAMES))} is known", compiler=name)
    for device in dict.fromkeys(tensor.device for tensor in tensors):
        missing = inductor_missing(device)
        if missing:
            raise CompilerError(
                f"{name} needs {missing} to compile for {device}, and this machine has none that works. Without compiler= the "
                "schedule runs as well, by PyTorch's own kernels",
                compiler=name,
            )


def compiler_named(name: str) -> Compiler:
    """The compiler ``name``, which ``check_compiler`` has let pass."""
    return Compiler(name, inductor_supports, _by_inductor)


def _by_inductor(module: fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[[list[Any]], Any]:
    key = (module.code, tuple((t.shape, t.stride(), t.dtype, t.device) for t in inputs))
    code = _known.get(key)
    if code is None:
        operators = ", ".join(dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "call_function"))
        try:
            code = _known[key] = compiled_by_inductor(module, inputs)
        except Exception as error:
            raise CompilerError(
                f"inductor cannot compile a piece of the schedule ({type(error).__name__}: {error}). Its operators: "
                f"{operators}. Apply the schedule without compiler=",
                compiler="inductor",
            ) from error
    return code
