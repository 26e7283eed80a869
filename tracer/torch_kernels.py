"""Kernels in the place of PyTorch's own, for fake tensors, while something is captured.

``tests/tracer/test_torch_kernels.py`` says when a release breaks what is private here: ``_scoped_library``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.library import _scoped_library

from remat_planner.tracer.torch_private import FakeTensor

_AUTOGRAD = ("AutogradCPU", "AutogradCUDA")  # the dispatch keys of autograd, by device


@contextmanager
def composites_replaced(kernels: Mapping[torch._ops.OpOverload, Callable[..., Any]], *, on_gpu: bool = False) -> Iterator[None]:
    """Call ``kernels`` for composite operators on fakes on the CPU, or also ``on_gpu``.

    Where one returns None, PyTorch decomposes the operator.
    """

    def replaced(operator: torch._ops.OpOverload, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = kernel(*args, **kwargs) if isinstance(args[0], FakeTensor) else None
            return operator.decompose(*args, **kwargs) if result is None else result

        return call

    with _scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Oo]verriding a previously registered kernel")
        for operator, kernel in kernels.items():
            for key in _AUTOGRAD if on_gpu else _AUTOGRAD[:1]:
                library.impl(operator, replaced(operator, kernel), key)
        yield


@contextmanager
def autograd_replaced(kernels: Mapping[torch._ops.OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """Call ``kernels`` where autograd handles an operator on a fake: ``kernel(original, *args, **kwargs)``.

    ``original`` is PyTorch's own kernel, which also handles real tensors.
    """

    def replaced(operator: torch._ops.OpOverload, kernel: Callable[..., Any], key: str) -> Callable[..., Any]:
        original = torch.library.get_kernel(operator, key)

        def call(keys: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(args[0], FakeTensor):
                return original.call_boxed(keys, *args, **kwargs)
            return kernel(partial(original.call_boxed, keys), *args, **kwargs)

        return call

    with _scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Oo]verriding a previously registered kernel")
        for operator, kernel in kernels.items():
            for key in _AUTOGRAD:
                library.impl(operator, replaced(operator, kernel, key), key, with_keyset=True)
        yield
