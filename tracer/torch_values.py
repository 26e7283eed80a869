"""The private names of PyTorch around values that fake tensors lack: sizes that depend on them, and reads of whole tensors.

``tests/tracer/test_torch_values.py`` tries each by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["is_composite", "like", "result_given", "run_composite", "sized_results_given", "whole_tensors_read"]

_given: ContextVar[tuple[Any, Callable[[], Any]] | None] = ContextVar("_given", default=None)


@contextmanager
def sized_results_given(mode: FakeTensorMode) -> Iterator[None]:
    """Let ``result_given`` say what operators return on fakes of ``mode`` where the size depends on values."""
    dispatch = mode.dispatch
    before = vars(mode).get("dispatch")

    def answered(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return dispatch(func, types, args, kwargs)
        except DynamicOutputShapeException:
            given = _given.get()
            if given is None or given[0] is not func:
                raise
            with mode:
                return given[1]()

    mode.dispatch = answered  # type: ignore[method-assign]
    try:
        yield
    finally:
        del mode.dispatch  # restores the method of the class
        if before is not None:
            mode.dispatch = before  # type: ignore[method-assign]


@contextmanager
def result_given(func: Any, result: Callable[[], Any]) -> Iterator[None]:
    """Inside, a call of ``func`` whose result no fake can tell returns ``result()``."""
    token = _given.set((func, result))
    try:
        yield
    finally:
        _given.reset(token)


def like(tensor: torch.Tensor) -> torch.Tensor:
    """A new fake of the form of ``tensor``; under a mode of fakes."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


@contextmanager
def whole_tensors_read(read: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let ``Tensor.tolist`` and ``Tensor.numpy`` of fakes return the values of ``read(fake, shared=...)`` in this thread.

    An array shares its memory with the tensor in eager. This one cannot be written to.
    """

    own: Any = FakeTensor
    original = own.tolist
    thread = threading.get_ident()

    def tolist(tensor: torch.Tensor) -> Any:
        if threading.get_ident() != thread:
            return original(tensor)
        return read(tensor, shared=False).tolist()

    def numpy(tensor: torch.Tensor, *, force: bool = False) -> Any:
        if threading.get_ident() != thread:
            return torch.Tensor.numpy(tensor, force=force)
        if tensor.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        values = read(tensor, shared=not force)
        with _disable_current_modes():
            array = values.numpy()
        array.flags.writeable = False
        return array

    own.tolist, own.numpy = tolist, numpy
    try:
        yield
    finally:
        own.tolist = original
        del own.numpy  # the one of the base class is in its place again


@cache
def is_composite(operator: Any) -> bool:
    """Whether an operator is made of others, which autograd's layer calls in its place."""
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    name: str = operator.name()  # type: ignore[no-untyped-call]
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, torch._C.DispatchKey.CompositeImplicitAutograd)


def run_composite(operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run a composite operator by its kernel in C. ``OpOverload.decompose`` prefers one in Python, which may run others."""
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
