"""Random draws as pure functions with eager's bits.

Eager fills a tensor in place, and the order of the draws follows its strides. The functional forms of ATen draw into a
contiguous tensor instead, which gives a permuted activation another mask. The functions here fill a fresh tensor with eager's
strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.operators import graph_function
from remat_planner.tracer.torch_private import FakeTensorMode

aten = torch.ops.aten
Fill = Callable[..., torch.Tensor]


def fill_as_eager(graph: fx.Graph, mode: FakeTensorMode) -> list[fx.Node]:
    """Replace the functional draws of ``graph``; those whose strides changed, so that the fakes of their readers are stale."""
    changed = []
    for node in graph.nodes:
        fill = _FUNCTIONAL.get(str(node.target)) if isinstance(node.target, torch._ops.OpOverload) else None
        if fill is None:
            continue
        node.target = fill
        like = node.args[0].meta["val"]
        if like.stride() == node.meta["val"].stride():
            continue  # views of the fake stay views of it
        changed.append(node)
        with mode:
            node.meta["val"] = torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, device=like.device)
    return changed


def _fill(name: str, in_place: torch._ops.OpOverload) -> Fill:
    @graph_function(f"tracer.random_fills.{name}")
    def fill(like: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        fresh = torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, device=like.device)
        return in_place(fresh, *args, **kwargs)

    fill.__name__ = fill.__qualname__ = name
    fill.__doc__ = f"A tensor of the size, strides and dtype of ``like``, filled by ``{in_place}``."
    fill.draws = True  # type: ignore[attr-defined]
    return fill


bernoulli_fill = _fill("bernoulli_fill", aten.bernoulli_.float)
bernoulli_tensor_fill = _fill("bernoulli_tensor_fill", aten.bernoulli_.Tensor)
uniform_fill = _fill("uniform_fill", aten.uniform_.default)
normal_fill = _fill("normal_fill", aten.normal_.default)
exponential_fill = _fill("exponential_fill", aten.exponential_.default)
geometric_fill = _fill("geometric_fill", aten.geometric_.default)
cauchy_fill = _fill("cauchy_fill", aten.cauchy_.default)
log_normal_fill = _fill("log_normal_fill", aten.log_normal_.default)
random_fill = _fill("random_fill", aten.random_.default)
random_from_fill = _fill("random_from_fill", getattr(aten.random_, "from"))
random_to_fill = _fill("random_to_fill", aten.random_.to)

_FUNCTIONAL: dict[str, Fill] = {
    "aten.bernoulli.p": bernoulli_fill,
    "aten.bernoulli.Tensor": bernoulli_tensor_fill,
    "aten.uniform.default": uniform_fill,
    "aten.normal_functional.default": normal_fill,
    "aten.exponential.default": exponential_fill,
    "aten.geometric.default": geometric_fill,
    "aten.cauchy.default": cauchy_fill,
    "aten.log_normal.default": log_normal_fill,
    "aten.random.default": random_fill,
    "aten.random.from": random_from_fill,
    "aten.random.to": random_to_fill,
}
