"""The ``ctx`` of an autograd.Function that runs outside of autograd, and what of it waits for the backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.utils import _pytree as pytree

PLAIN_VALUES = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.layout)
"""Types of values that hold nothing else and that their text tells apart."""

_CONTAINERS = (list, tuple, dict)
_OWN = frozenset({"needs_input_grad", "to_save", "saved_tensors", "materialize_grads", "dirty_tensors", "non_differentiable"})


class Context(FunctionCtx):
    """Stands for ``ctx``: the methods are those of autograd's own, which write into the attributes below.

    Attributes:
        needs_input_grad: for each argument whether it gets a gradient.
        to_save: what ``save_for_backward`` got.
        materialize_grads: whether the backward gets zeros where no gradient arrives.
        dirty_tensors: what ``mark_dirty`` got.
        non_differentiable: what ``mark_non_differentiable`` got.
    """

    to_save: tuple[Any, ...] = ()
    saved_tensors: tuple[torch.Tensor | None, ...] = ()
    materialize_grads: bool = True
    dirty_tensors: tuple[torch.Tensor, ...] = ()
    non_differentiable: tuple[torch.Tensor, ...] = ()

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad


@dataclass(frozen=True, slots=True)
class _Slot:
    """Stands for tensor number ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class KeptContext:
    """A ``ctx`` between forward and backward, without its tensors, which the schedule keeps.

    Attributes:
        saved: what ``save_for_backward`` got, with slots for tensors.
        attributes: what the code has set on ``ctx``, with slots for tensors.
        needs_input_grad, materialize_grads: as in ``Context``.
    """

    saved: tuple[_Slot | None, ...]
    attributes: dict[str, Any]
    needs_input_grad: tuple[bool, ...]
    materialize_grads: bool

    @classmethod
    def of(cls, context: Context) -> tuple[KeptContext, list[torch.Tensor]]:
        """What ``context`` keeps for the backward, and the tensors in it."""
        tensors: list[torch.Tensor] = []

        def emptied(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            tensors.append(value)
            return _Slot(len(tensors) - 1)

        saved = tuple([emptied(tensor) for tensor in context.to_save])
        attributes = {
            name: pytree.tree_map(emptied, value) if isinstance(value, _CONTAINERS) else emptied(value)
            for name, value in vars(context).items()
            if name not in _OWN
        }
        return cls(saved, attributes, context.needs_input_grad, context.materialize_grads), tensors

    @property
    def holds_objects(self) -> bool:
        """Whether it keeps more than tensors, numbers and strings."""
        return any(not isinstance(leaf, (*PLAIN_VALUES, _Slot)) for leaf in pytree.tree_leaves(self.attributes))

    def context(self, tensors: Sequence[torch.Tensor]) -> Context:
        """A ``ctx`` for the backward, with ``tensors`` in their places."""

        def filled(value: Any) -> Any:
            return tensors[value.index] if isinstance(value, _Slot) else value

        context = Context(self.needs_input_grad)
        context.saved_tensors = tuple([filled(slot) for slot in self.saved])
        context.materialize_grads = self.materialize_grads
        for name, value in self.attributes.items():
            setattr(context, name, pytree.tree_map(filled, value) if isinstance(value, _CONTAINERS) else filled(value))
        return context
