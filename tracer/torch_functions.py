"""The private names of PyTorch around ``autograd.Function``: calling it, its backward, and the addresses that its kernels read.

Together with ``torch_private`` these are all private names that the tracer uses. ``tests/tracer/test_torch_functions.py`` tries
each by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch

__all__ = ["ADDRESSES", "READS_OF_ADDRESSES", "autograd_at_hand", "functions_applied_by", "with_autograd"]

ADDRESSES: tuple[tuple[Any, str], ...] = tuple(
    (holder, name)
    for holder in (torch.Tensor, torch.UntypedStorage)
    for name in ("data_ptr", "const_data_ptr", "mutable_data_ptr")
    if hasattr(holder, name)
)
"""Methods that return the address of a tensor's memory, by the class to which each may be added: a base class has it."""
READS_OF_ADDRESSES = "Cannot access data pointer of Tensor"
"""Message of fakes whose address C code reads."""


@contextmanager
def functions_applied_by(apply: Callable[..., Any], backward: Callable[..., Any]) -> Iterator[None]:
    """Call ``apply(original, function, *args)`` in the place of ``function.apply(*args)`` for each ``autograd.Function``, and
    ``backward(original, function, *gradients)`` in the place of its backward; both in this thread alone.

    ``Function.apply`` itself is often bound at import time; it goes on to the ``apply`` of its base class.
    """
    base: Any = torch.autograd.function._SingleLevelFunction
    node_class: Any = torch.autograd.function.BackwardCFunction
    run_backward = node_class.apply
    thread = threading.get_ident()

    def applied(function: Any, *args: Any, **kwargs: Any) -> Any:
        original = super(base, function).apply
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return apply(original, function, *args, **kwargs)

    def ran_backward(node: Any, *gradients: Any) -> Any:
        if threading.get_ident() != thread:
            return run_backward(node, *gradients)
        return backward(partial(run_backward, node), node._forward_cls, *gradients)

    base.apply = classmethod(applied)
    node_class.apply = ran_backward
    try:
        yield
    finally:
        del base.apply
        node_class.apply = run_backward


def autograd_at_hand() -> AbstractContextManager[Any]:
    """Let autograd record where grad mode is on, also where a planned step runs below autograd."""
    c: Any = torch._C
    excluded = c._dispatch_tls_local_exclude_set()
    return c._ForceDispatchKeyGuard(c._dispatch_tls_local_include_set(), _with_autograd_keys(excluded.raw_repr(), excluded))


_reached: dict[int, Any] = {}  # sets of excluded dispatch keys without those of autograd, by the number of the whole set


def _with_autograd_keys(number: int, excluded: Any) -> Any:
    if number not in _reached:
        keys = torch._C.DispatchKey
        for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.AutogradNestedTensor):
            excluded = excluded.remove(key)
        _reached[number] = excluded
    return _reached[number]


@contextmanager
def with_autograd() -> Iterator[None]:
    """Let autograd record, also where a planned step runs below autograd."""
    with autograd_at_hand(), torch.enable_grad():
        yield
