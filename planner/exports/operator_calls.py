"""The operators that eager calls in a step: which results selective checkpointing can save, and how it names them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch

from remat_planner.planner.exports.eager_checkpointing import EagerStep
from remat_planner.tracer.functions import RECORDED_AS
from remat_planner.tracer.operators import written_arguments
from remat_planner.tracer.torch_private import storage_key

# PyTorch's policies do not see these: checkpointing itself adds some and leaves out others.
_NOT_COUNTED = ("aten.detach.default",)


class OperatorCalls:
    """The operators that eager calls, as selective checkpointing sees them."""

    def __init__(self, step: EagerStep) -> None:
        self._step = step
        self._mutated = {key for i in range(step.loss) for key in self._written_by(i)}

    def must_save(self, op: int) -> bool:
        """Whether the op must not run twice."""
        meta, operator = self._step.node(op).meta, self._step.operator(op)
        # Checkpointing does not set generators of the user's own back, and sees the operators inside of an autograd.Function,
        # which the capture has not seen.
        uncounted = "generator" in meta or (operator is not None and operator.name == RECORDED_AS)
        return self._step.graph.ops[op].pinned is not None or bool(meta["once"]) or uncounted

    def can_save(self, op: int) -> bool:
        """Whether saving the op's results gives eager's bits."""
        operator, node = self._step.operator(op), self._step.node(op)
        if operator is None or operator.in_backward or operator.name in _NOT_COUNTED or operator.name != str(node.target):
            return False  # eager calls another operator here, or none
        if node.meta["random"] or written_arguments(node.target, node.args, node.kwargs):
            return False
        if not self._step.graph.allocated[op]:
            return False
        return self._mutated.isdisjoint(storage_key(t) for t in _tensors(node.meta["val"]))

    def places(self, module: str, ops: Collection[int]) -> dict[str, list[int]]:
        """The places of ``ops`` among the calls of each operator in the forward of ``module``, by operator."""
        wanted = {self._step.node(i).meta["operator"] for i in ops}
        count: defaultdict[str, int] = defaultdict(int)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for k, operator in enumerate(self._step.joint.operators):
            if operator.in_backward or not (operator.module == module or operator.module.startswith(f"{module}.")):
                continue
            if k in wanted:
                places[operator.name].append(count[operator.name])
            count[operator.name] += 1
        return dict(places)

    def _written_by(self, op: int) -> list[int]:
        """The storages that eager's operator writes in place; the graph may hold a pure form of it."""
        operator = self._step.operator(op)
        if operator is None:
            return []
        node = self._step.node(op)
        arguments = _schema_arguments(operator.name)
        return [
            storage_key(tensor)
            for place, declared in enumerate(arguments)
            if declared.alias_info is not None and declared.alias_info.is_write and place < len(node.args)
            for argument in [node.args[place]]
            if isinstance(argument, torch.fx.Node)
            for tensor in _tensors(argument.meta.get("val"))
        ]


def _schema_arguments(name: str) -> Sequence[Any]:
    """The declared arguments of an operator by its full name, "aten.mm.default"."""
    operator: Any = torch.ops
    for part in name.split("."):
        operator = getattr(operator, part, None)
    return operator._schema.arguments if isinstance(operator, torch._ops.OpOverload) else ()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]
