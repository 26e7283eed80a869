"""The arguments of a call as a flat list of leaves, with the tensors inside objects that pytree does not open.

A graph of torch_geometric, a dataclass or a batch of transformers is one leaf of pytree. The forward gets that object itself,
with stand-ins in the places of its tensors, so it finds what else the object holds, and what it writes there is seen.

The leaves are dense: a sparse or jagged tensor is one leaf for each dense tensor that it consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint.argument_parts import Parts, apart, arguments_apart, put_together
from remat_planner.tracer.joint.arguments_tree import flatten_tree
from remat_planner.tracer.joint.output_tree import tensors_inside
from remat_planner.tracer.python_state import Place, Roots, Step, tensors_of_object
from remat_planner.tracer.torch_nested import JaggedForm
from remat_planner.tracer.torch_sparse import SparseForm

_NO_ROOTS = Roots({})


@dataclass(frozen=True)
class Way:
    """The way to a tensor inside an object.

    Attributes:
        leaf: index of the leaf that is the object.
        steps: from it to the tensor, as ``Place.steps``.
        form: of a sparse or jagged tensor, which is one leaf for each of its parts; else None.
    """

    leaf: int
    steps: tuple[Step, ...]
    form: SparseForm | JaggedForm | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """How the leaves of the tensor are told apart, as in ".indices"; a dense tensor is one leaf, ""."""
        return ("",) if self.form is None else tuple(f".{name}" for name in self.form.names)

    def tensor(self, leaves: Iterator[Any], put: Callable[[Parts], torch.Tensor]) -> Any:
        """The tensor of the next leaves."""
        return next(leaves) if self.form is None else put(Parts(self.form, tuple(islice(leaves, len(self.form.names)))))


@dataclass(frozen=True)
class InputTree:
    """The structure of a call's arguments without the leaves.

    Attributes:
        spec: pytree's structure of ``(args, kwargs)``, with ``Parts`` in the place of sparse and jagged tensors.
        inside: the way to each tensor inside an object. These tensors come after pytree's leaves.
    """

    spec: pytree.TreeSpec
    inside: tuple[Way, ...] = ()

    def call(
        self, leaves: Sequence[Any], put: Callable[[Parts], torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Callable[[], None]]:
        """``args`` and ``kwargs`` with ``leaves`` in them, and what puts the objects' own tensors back into them.

        ``put(parts)`` makes what comes in the place of a sparse or jagged tensor.

        Raises:
            LookupError: an object has no such place.
            TypeError: nothing can be put there.
            AttributeError: nothing can be put there.
        """
        filled, rest = list(leaves[: self.spec.num_leaves]), iter(leaves[self.spec.num_leaves :])
        boxes = {way.leaf: [filled[way.leaf]] for way in self.inside}
        undo: list[Callable[[], None]] = []

        def put_back() -> None:
            for step in reversed(undo):
                step()

        try:
            for way in self.inside:
                undo.append(_place(boxes[way.leaf], way.steps).put(_NO_ROOTS, way.tensor(rest, put)))
        except BaseException:
            put_back()
            raise
        for k, box in boxes.items():
            filled[k] = box[0]
        args, kwargs = put_together(pytree.tree_unflatten(filled, self.spec), put)
        return args, kwargs, put_back


def flatten_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], InputTree]:
    """The leaves of a call's arguments and their structure."""
    leaves, spec = flatten_tree(arguments_apart(args, kwargs))
    inside: list[Way] = []
    for k in range(len(leaves)):
        for steps, tensor in tensors_of_object(leaves[k]):
            found = apart(tensor)
            form, dense = (found.form, found.parts) if isinstance(found, Parts) else (None, (tensor,))
            inside.append(Way(k, steps, form))
            leaves += dense
    return leaves, InputTree(spec, tuple(inside))


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


def has_parts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a sparse or jagged tensor is among the arguments of a call, which is several leaves."""
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    tensors += [tensor for leaf in leaves for _, tensor in tensors_of_object(leaf)]
    return any(isinstance(apart(tensor), Parts) for tensor in tensors)


def tensor_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The dense tensors among the arguments of a call, those inside objects after the others."""
    return [leaf for leaf in flatten_inputs(args, kwargs)[0] if isinstance(leaf, torch.Tensor)]


def _place(box: list[Any], steps: tuple[Any, ...]) -> Place:
    """Where a tensor is in the object that lies in ``box``; a tuple there is replaced by another one."""
    return Place("", box, "object", (("item", 0), *steps))
