"""Floating point operations of operator calls: matrix products, convolutions, attention, recurrent layers; all else counts 0.

A multiply and an add are two. Elementwise operators and reductions count 0: memory bounds them on every device, and a model's
"model FLOPs" leave them out too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from remat_planner.tracer.operators import OpCall, TensorSpec, facts_of


def flops(call: OpCall) -> int:
    """Floating point operations of ``call``: by its operator's record, else by PyTorch's formula, else 0."""
    formula = facts_of(call.target).flops
    if formula is not None:
        return int(formula(call))
    packet = getattr(call.target, "overloadpacket", None)
    if packet in flop_registry:
        args, kwargs, outputs = pytree.tree_map(_shape, (call.args, call.kwargs, list(call.outputs)))
        return int(flop_registry[packet](*args, **kwargs, out_val=outputs[0] if len(outputs) == 1 else outputs))
    return 0


def _shape(leaf: Any) -> Any:
    return leaf.shape if isinstance(leaf, (TensorSpec, torch.Tensor)) else leaf
