"""The private names of PyTorch with which operators are traced; ``tests/tracer/test_torch_tracing.py`` tries each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, extract_val
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "CALLS_COMPILED_CODE",
    "TracingMode",
    "compiled_functions_refused",
    "functional_tensor",
    "functional_value",
    "graph_module",
    "name_of_node",
    "snapshot",
    "tracing_interrupted",
    "tracing_mode",
]

# Message of torch.compile when a compiled function is called under a trace.
CALLS_COMPILED_CODE = "symbolically trace a dynamo-optimized function"


class TracingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators below all other modes but that of fakes, in the place of the mode of ``make_fx``.

    PyTorch's own code takes it off where it computes forms alone, and ``make_fx`` inside of it replaces it.
    """

    @classmethod
    def is_infra_mode(cls) -> bool:
        """So that ``torch.compile``, which operators that take functions call in eager too, compiles inside."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self._replaced: list[Any] = []
        self.tracer = SimpleNamespace(enable_thunkify=False)  # PyTorch's jagged tensors set it while they are viewed

    def __enter__(self) -> Self:
        self._replaced.append(torch._C._unset_dispatch_mode(self._mode_key))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        if (before := self._replaced.pop()) is not None:
            torch._C._set_dispatch_mode(before)


def tracing_mode() -> Any:
    """The mode that traces operators now: a ``TracingMode``, or that of ``make_fx``; None where there is none."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)


def tracing_interrupted() -> AbstractContextManager[Any]:
    """Run operators that the ``tracing_mode`` does not see."""
    return disable_proxy_modes_tracing()


@contextmanager
def compiled_functions_refused() -> Iterator[None]:
    """Let a function of ``torch.compile`` raise ``CALLS_COMPILED_CODE``: its code would run on the memory of fakes."""
    before = _symbolic_trace._is_fx_tracing_flag
    _symbolic_trace._is_fx_tracing_flag = True
    try:
        yield
    finally:
        _symbolic_trace._is_fx_tracing_flag = before


def snapshot(value: Any) -> Any:
    """Fakes of the form that tensors have now; what is changed in place later does not change them."""
    return extract_val(value)


def functional_tensor(value: torch.Tensor) -> torch.Tensor:
    """``value`` as ``torch.func.functionalize`` gives it to its function, inside of that function."""
    functorch: Any = torch._C._functorch
    return functorch._wrap_functional_tensor(value, functorch.maybe_current_level())


def functional_value(value: Any) -> Any:
    """The tensor that a trace inside of ``torch.func.functionalize`` sees in the place of ``value``, with all writes."""
    if not isinstance(value, torch.Tensor) or not torch._is_functional_tensor(value):
        return value
    torch._sync(value)  # type: ignore[attr-defined,no-untyped-call]
    return torch._from_functional_tensor(value)


def graph_module(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs ``graph``; its Python code is written at its first call, and captures run graphs without it."""
    return _LazyGraphModule(root, graph)


def name_of_node(operator: str) -> str:
    """The name, before numbers, of a graph's node that calls ``operator``."""
    return fx.Graph()._target_to_str(operator)
