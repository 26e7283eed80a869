"""Small graphs on fake tensors, for tests of what single operators cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from remat_planner.tracer.operators.op_call import OpCall, op_call


def fakes(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Fake copies of ``tensors`` in one mode; tensors that share memory keep sharing it."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return [mode.from_tensor(t, static_shapes=True) for t in tensors]


def nodes_of(function: Callable[..., Any], *tensors: torch.Tensor) -> list[fx.Node]:
    """The operator calls of ``function`` on fake copies of ``tensors``, in order."""
    graph = make_fx(function, _allow_non_fake_inputs=True)(*fakes(*tensors)).graph
    return [node for node in graph.nodes if node.op == "call_function"]


def calls_of(function: Callable[..., Any], *tensors: torch.Tensor) -> list[OpCall]:
    """As ``nodes_of``, as calls."""
    return [op_call(node) for node in nodes_of(function, *tensors)]


def call_of(function: Callable[..., Any], *tensors: torch.Tensor, operator: str = "") -> OpCall:
    """The one call in ``function`` whose operator's name contains ``operator``."""
    (call,) = (call for call in calls_of(function, *tensors) if operator in str(call.target))
    return call


def on_meta(shapes: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Tensors of these shapes that take no memory."""
    return [torch.empty(*shape, dtype=dtype, device="meta") for shape in shapes]
