"""The arguments of a call as a flat list of leaves, with the tensors inside objects that pytree does not open.

A graph of torch_geometric, a dataclass or a batch of transformers is one leaf of pytree. The forward gets that object itself,
with stand-ins in the places of its tensors, so it finds what else the object holds, and what it writes there is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint.arguments_tree import flatten_tree
from remat_planner.tracer.joint.output_tree import tensors_inside
from remat_planner.tracer.python_state import Place, Roots, tensors_of_object

_NO_ROOTS = Roots({})
Way = tuple[int, tuple[Any, ...]]
"""The leaf that is an object, and the steps (``Place.steps``) from it to a tensor."""


@dataclass(frozen=True)
class InputTree:
    """The structure of a call's arguments without the leaves.

    Attributes:
        spec: pytree's structure of ``(args, kwargs)``.
        inside: the way to each tensor inside an object. These tensors come after pytree's leaves.
    """

    spec: pytree.TreeSpec
    inside: tuple[Way, ...] = ()

    def call(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any], Callable[[], None]]:
        """``args`` and ``kwargs`` with ``leaves`` in them, and what puts the objects' own tensors back into them.

        Raises:
            LookupError: an object has no such place.
            TypeError: nothing can be put there.
            AttributeError: nothing can be put there.
        """
        filled = list(leaves[: len(leaves) - len(self.inside)])
        boxes = {k: [filled[k]] for k, _ in self.inside}
        undo: list[Callable[[], None]] = []

        def put_back() -> None:
            for step in reversed(undo):
                step()

        try:
            for (k, steps), tensor in zip(self.inside, leaves[len(filled) :], strict=True):
                undo.append(_place(boxes[k], steps).put(_NO_ROOTS, tensor))
        except BaseException:
            put_back()
            raise
        for k, box in boxes.items():
            filled[k] = box[0]
        args, kwargs = pytree.tree_unflatten(filled, self.spec)
        return args, kwargs, put_back


def flatten_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], InputTree]:
    """The leaves of a call's arguments and their structure."""
    leaves, spec = flatten_tree((tuple(args), dict(kwargs)))
    inside = [(k, steps, tensor) for k, leaf in enumerate(leaves) for steps, tensor in tensors_of_object(leaf)]
    leaves += [tensor for *_, tensor in inside]
    return leaves, InputTree(spec, tuple((k, steps) for k, steps, _ in inside))


def can_be_input(thing: Any) -> bool:
    """Whether others can be put in the places of all tensors inside ``thing``, for a forward to find."""
    ways = tensors_of_object(thing)
    if not {id(tensor) for tensor in tensors_inside(thing)} <= {id(tensor) for _, tensor in ways}:
        return False
    box = [thing]
    try:
        for steps, tensor in ways:
            if _place(box, steps).find(_NO_ROOTS) is not tensor:  # a property of the class stands before the attribute
                return False
            _place(box, steps).put(_NO_ROOTS, tensor)
    except (LookupError, TypeError, AttributeError):
        return False
    return True


def tensor_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments of a call, those inside objects after the others."""
    return [leaf for leaf in flatten_inputs(args, kwargs)[0] if isinstance(leaf, torch.Tensor)]


def _place(box: list[Any], steps: tuple[Any, ...]) -> Place:
    """Where a tensor is in the object that lies in ``box``; a tuple there is replaced by another one."""
    return Place("", box, "object", (("item", 0), *steps))
