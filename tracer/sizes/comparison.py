"""Whether two captures are one step."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Joint
from remat_planner.tracer.record import same_graph


def is_same_joint(one: Joint, other: Joint) -> bool:
    """Whether both are one step: the same operators with the same numbers, on tensors of the same forms."""
    if not same_graph(one.graph.graph, other.graph.graph):
        return False
    pairs = zip(one.graph.graph.nodes, other.graph.graph.nodes, strict=True)
    return all(
        _forms(a.meta.get("val")) == _forms(b.meta.get("val")) and a.meta.get("name") == b.meta.get("name") for a, b in pairs
    )


def _forms(value: Any) -> list[Any]:
    leaves = pytree.tree_leaves(value)
    return [
        (tuple(leaf.shape), leaf.stride(), leaf.storage_offset(), leaf.dtype, leaf.device)
        if isinstance(leaf, torch.Tensor)
        else type(leaf)
        for leaf in leaves
    ]
