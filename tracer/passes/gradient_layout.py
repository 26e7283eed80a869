"""Gradients as autograd makes them: what each is the sum of, and the layout in which it ends in ``.grad``.

Autograd hands a gradient over as it is where it has the strides of its parameter and nothing else uses its memory; otherwise it
copies it. The copy is bytes, so it is an op of the joint graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.joint import SAME_TENSOR
from remat_planner.tracer.passes.pure_forms import copied_with_strides


def laid_out_as_owners(
    graph: fx.Graph, gradients: Sequence[fx.Node | None], owners: Sequence[torch.Tensor], outside: Sequence[fx.Node]
) -> list[fx.Node | None]:
    """The gradient nodes, each with a copy behind it where autograd would make one.

    ``owners`` are the parameters and inputs that the gradients belong to, ``outside`` the nodes whose memory is not the
    backward's.
    """
    taken = {n.meta["val"].untyped_storage()._cdata for n in outside if isinstance(n.meta.get("val"), torch.Tensor)}
    laid_out: list[fx.Node | None] = []
    for gradient, owner in zip(gradients, owners, strict=True):
        if gradient is None:
            laid_out.append(None)
            continue
        if gradient.target is copied_with_strides:
            gradient = _without_needless_copy(gradient, owner, taken)
        value = gradient.meta["val"]
        storage = value.untyped_storage()._cdata
        if storage in taken or not _obeys_layout(value, owner):
            gradient = _copy(graph, gradient, owner)
        taken.add(storage)
        laid_out.append(gradient)
    return laid_out


def contributions(gradient: fx.Node | None, edges: int) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """What ``gradient``, to which ``edges`` lead, is the sum of, in the order in which it is added up, and the additions from
    the last one back; nothing where it is no sum.

    Autograd adds what arrives to the sum of what was there, so the sum is the argument that was made first.
    """
    if gradient is None:
        return (), ()
    place = {node: k for k, node in enumerate(gradient.graph.nodes)} if edges > 1 else {}
    node: Any = _undetached(gradient.args[0] if gradient.target is copied_with_strides else gradient)
    arrivals: list[fx.Node] = []
    sums: list[fx.Node] = []
    while len(sums) < edges - 1 and node.target is torch.ops.aten.add.Tensor and node.meta.get("in_backward"):
        if node.kwargs or not all(isinstance(argument, fx.Node) for argument in node.args):
            break
        sums.append(node)
        node, arrived = sorted(map(_undetached, node.args), key=place.__getitem__)
        arrivals.append(arrived)
    return ((node, *reversed(arrivals)), tuple(sums)) if sums else ((), ())


def _undetached(node: Any) -> Any:
    while node.target in SAME_TENSOR:
        node = node.args[0]
    return node


def _without_needless_copy(copy: fx.Node, owner: torch.Tensor, taken: set[int]) -> fx.Node:
    """What ``copy`` copies, where that could be handed over: autograd copies also what something else still refers to."""
    source: Any = copy.args[0]
    value = source.meta["val"]
    if value.untyped_storage()._cdata in taken or value.dtype != owner.dtype or value.shape != owner.shape:
        return copy
    return source if _obeys_layout(value, owner) else copy


def _copy(graph: fx.Graph, gradient: fx.Node, owner: torch.Tensor) -> fx.Node:
    stride = owner.stride() if _is_dense(owner) else torch.empty(owner.shape, device="meta").stride()
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


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their memory without gaps and none shares a place."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _obeys_layout(gradient: torch.Tensor, owner: torch.Tensor) -> bool:
    """The rule of autograd's accumulation (torch/csrc/autograd/utils/grad_layout_contract.h)."""
    if not _is_dense(owner):
        return gradient.is_contiguous()
    return all(
        (mine == theirs if size != 1 else mine != 0)
        for mine, theirs, size in zip(gradient.stride(), owner.stride(), gradient.shape, strict=True)
    )
