"""What any pass asks of a node of the graph: the name of its operator and the tensors that it produces."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from remat_planner.tracer.leaves import tensors_in


def operator_name(target: Any) -> str:
    """Short name of an operator: "addmm" for ``aten.addmm.default``."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def tensors_of(node: fx.Node) -> list[torch.Tensor]:
    """The fake tensors that ``node`` produces."""
    return tensors_in(node.meta.get("val"))
