"""The private names of PyTorch around operators that take functions, such as ``torch.cond``.

``tests/tracer/test_torch_higher_order.py`` tries each by itself.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

__all__ = [
    "BRANCH",
    "FLEX_ATTENTION",
    "compiled_calls_by",
    "flex_attention_as_on_gpu",
    "is_higher_order",
    "loops_differentiated",
    "name_of",
    "run_kernel",
    "runs_as_operators",
]

_LOOPS_AND_BRANCHES = frozenset({"cond", "map_impl", "scan", "while_loop", "while_loop_stack_output"})
BRANCH = "cond"
"""Name of the operator behind ``torch.cond``."""
FLEX_ATTENTION = frozenset({"flex_attention", "flex_attention_backward"})
"""Names of the operators behind ``torch.nn.attention.flex_attention``."""
_ASK_FOR_MODES = ("torch._higher_order_ops.cond", "torch._higher_order_ops.scan")
"""Modules whose kernels refuse to run where a dispatch mode is active."""
_TRACES = "materialize_as_graph"
"""Name of the function that traces the functions which an operator gets."""
_ROOT = os.path.dirname(torch.__file__)
_THROUGH_COMPILER = (
    os.path.join(_ROOT, "_higher_order_ops") + os.sep,
    os.path.join(_ROOT, "nn", "attention", "flex_attention.py"),
)
"""Files that call ``torch.compile`` for such operators in eager."""


def is_higher_order(func: Any) -> bool:
    """Whether ``func`` is an operator that takes functions."""
    return isinstance(func, HigherOrderOperator)


def name_of(func: Any) -> str:
    """The name of such an operator."""
    name: str = func.name()
    return name


def runs_as_operators(func: Any) -> bool:
    """Whether the kernel of ``func`` only calls the functions that it gets, and operators, as a loop in Python does."""
    return name_of(func) in _LOOPS_AND_BRANCHES


def run_kernel(func: Any, args: Any, kwargs: Any) -> Any:
    """What the kernel of ``func`` returns, which runs on any device, whatever modes are active."""
    kernel: Callable[..., Any] = func.py_kernels[torch._C.DispatchKey.CompositeExplicitAutograd]
    if not torch._C._len_torch_dispatch_stack():
        return kernel(*args, **kwargs)
    with _modes_unseen():
        return kernel(*args, **kwargs)


_Around = Callable[[Callable[[], Any], list[Any]], Any]
_around = threading.local()


@contextmanager
def compiled_calls_by(call: _Around) -> Iterator[None]:
    """Let such operators, which eager calls through ``torch.compile``, run inside of ``call(run, functions)`` in this thread.

    ``functions`` are what the operator gets. Contexts may be nested.
    """
    calls: list[_Around] = vars(_around).setdefault("calls", [])
    calls.append(call)
    try:
        if len(calls) > 1:
            yield
        else:
            with _compile_watched():
                yield
    finally:
        calls.pop()


@contextmanager
def _compile_watched() -> Iterator[None]:
    original: Any = torch.compile

    def compiled(*args: Any, **kwargs: Any) -> Any:
        function = original(*args, **kwargs)
        asking = sys._getframe(1).f_code.co_filename
        calls: list[_Around] = getattr(_around, "calls", [])
        if not calls or not asking.startswith(_THROUGH_COMPILER):
            return function

        def called(*args: Any, **kwargs: Any) -> Any:
            functions = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if inspect.isfunction(leaf)]
            run: Callable[[], Any] = partial(function, *args, **kwargs)
            for around in calls:
                run = partial(around, run, functions)
            return run()

        return called

    torch.compile = compiled
    try:
        yield
    finally:
        torch.compile = original


@contextmanager
def loops_differentiated(mode: FakeTensorMode) -> Iterator[None]:
    """Let the backward of ``while_loop`` be traced on fakes of ``mode``: it reads the number of the round from a tensor."""
    module: Any = import_module("torch._higher_order_ops.while_loop")
    if not hasattr(module, _TRACES):  # while_loop has no backward
        yield
        return
    original = getattr(module, _TRACES)

    def traced(*args: Any, **kwargs: Any) -> Any:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv  # which takes a third of a second to load

        before = mode.shape_env, mode.allow_scalar_outputs
        mode.shape_env, mode.allow_scalar_outputs = ShapeEnv(), True
        try:
            return original(*args, **kwargs)
        finally:
            mode.shape_env, mode.allow_scalar_outputs = before

    setattr(module, _TRACES, traced)
    try:
        yield
    finally:
        setattr(module, _TRACES, original)


@contextmanager
def flex_attention_as_on_gpu() -> Iterator[None]:
    """Let fakes on the CPU that require gradients go through ``flex_attention``, whose kernels on a CPU have no backward."""
    module: Any = sys.modules.get("torch.nn.attention.flex_attention")
    if module is None:  # no code has imported it
        yield
        return
    original = module._validate_device

    def validate(query: torch.Tensor, *others: torch.Tensor) -> None:
        if not isinstance(query, FakeTensor):
            original(query, *others)

    module._validate_device = validate
    try:
        yield
    finally:
        module._validate_device = original


@contextmanager
def _modes_unseen() -> Iterator[None]:
    with ExitStack() as stack:
        for module in map(import_module, _ASK_FOR_MODES):
            original = module._get_current_dispatch_mode
            module._get_current_dispatch_mode = lambda: None  # type: ignore[attr-defined]
            stack.callback(setattr, module, "_get_current_dispatch_mode", original)
        yield
