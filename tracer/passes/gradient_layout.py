"""The layout in which autograd leaves gradients in ``.grad``.

Autograd hands a gradient over as it is where it has the strides of its parameter and nothing else uses its memory; otherwise it
copies it. The copy takes bytes, so it is an op of the joint graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import is_dense
from remat_planner.tracer.passes.pure_forms import copied_with_strides
from remat_planner.tracer.torch_private import storage_key


def laid_out_as_owners(
    graph: fx.Graph, gradients: Sequence[fx.Node | None], owners: Sequence[torch.Tensor], outside: Sequence[fx.Node]
) -> list[fx.Node | None]:
    """The gradient nodes, each replaced by a copy where autograd would make one.

    Args:
        graph: changed in place.
        gradients: node of each gradient, or None.
        owners: the parameter or input that each gradient belongs to.
        outside: nodes whose memory is not the backward's.
    """
    taken = {storage_key(n.meta["val"]) for n in outside if isinstance(n.meta.get("val"), torch.Tensor)}
    laid_out: list[fx.Node | None] = []
    for gradient, owner in zip(gradients, owners, strict=True):
        if gradient is None:
            laid_out.append(None)
            continue
        if gradient.target is copied_with_strides:
            gradient = _without_needless_copy(gradient, owner, taken)
        value = gradient.meta["val"]
        storage = storage_key(value)
        if storage in taken or not _obeys_layout(value, owner):
            gradient = _copy(graph, gradient, owner)
        taken.add(storage)
        laid_out.append(gradient)
    return laid_out


def _without_needless_copy(copy: fx.Node, owner: torch.Tensor, taken: set[int]) -> fx.Node:
    """The source of ``copy`` where it could be handed over itself, else ``copy``.

    Eager copies where something else still refers to the source; after the capture nothing does.
    """
    source: Any = copy.args[0]
    value = source.meta["val"]
    if storage_key(value) in taken or value.dtype != owner.dtype or value.shape != owner.shape:
        return copy
    return source if _obeys_layout(value, owner) else copy


def _copy(graph: fx.Graph, gradient: fx.Node, owner: torch.Tensor) -> fx.Node:
    stride = owner.stride() if is_dense(owner) else torch.empty(owner.shape, device="meta").stride()
    value = gradient.meta["val"]
    after = gradient
    if gradient.op == "placeholder":
        after = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(after):
        copy = graph.call_function(
            copied_with_strides, (gradient, tuple(owner.shape), tuple(stride), value.dtype, value.device)
        )
    with value.fake_mode:
        copy.meta["val"] = torch.empty_strided(owner.shape, stride, dtype=value.dtype, device=value.device)
    copy.meta.update({key: gradient.meta.get(key, "") for key in ("module", "source")}, in_backward=True)
    return copy


def _obeys_layout(gradient: torch.Tensor, owner: torch.Tensor) -> bool:
    """The rule of autograd's accumulation (torch/csrc/autograd/utils/grad_layout_contract.h)."""
    if not is_dense(owner):
        return gradient.is_contiguous()
    return all(
        (gradient_stride == owner_stride if size != 1 else gradient_stride != 0)
        for gradient_stride, owner_stride, size in zip(gradient.stride(), owner.stride(), gradient.shape, strict=True)
    )
