"""What any pass asks of a node of the graph: the name of its operator and the tensors that it produces."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree


def operator_name(target: Any) -> str:
    """Short name of an operator: "addmm" for ``aten.addmm.default``."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def tensors_of(node: fx.Node) -> list[torch.Tensor]:
    """The fake tensors that ``node`` produces."""
    return [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, torch.Tensor)]
