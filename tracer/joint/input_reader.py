"""Flattens the arguments of one call after another, quicker than ``flatten_inputs`` where their structure repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remat_planner.tracer.joint.arguments_tree import flatten_tree
from remat_planner.tracer.joint.input_tree import InputTree, flatten_inputs
from remat_planner.tracer.python_state import ObjectTensors, may_hold_tensors

_MOST_STRUCTURES = 8  # of arguments that are remembered


class InputReader:
    """Remembers the structures of the latest arguments."""

    def __init__(self) -> None:
        self._of_tensors: dict[tuple[Any, ...], InputTree] = {}
        self._trees: list[InputTree] = []  # the latest first; the same object again compares in no time
        self._objects: list[ObjectTensors] = []
        self._walked: set[type] = set()

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], InputTree]:
        """The leaves of a call's arguments and their structure, as ``flatten_inputs`` gives them."""
        leaves = [*args, *kwargs.values()]
        if all(type(leaf) is torch.Tensor and leaf.layout is torch.strided for leaf in leaves):
            form = (len(args), *kwargs)
            if form not in self._of_tensors:
                self._of_tensors[form] = flatten_inputs(args, kwargs)[1]
            return leaves, self._of_tensors[form]
        return self._read(args, kwargs) or self._walk(args, kwargs)

    def _walk(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], InputTree]:
        leaves, tree = flatten_inputs(args, kwargs)
        for leaf in leaves[: tree.spec.num_leaves]:
            if may_hold_tensors(leaf) and type(leaf) not in self._walked and self._of_object(leaf) is None:
                try:
                    self._objects.insert(0, ObjectTensors(leaf))
                except LookupError:
                    self._walked.add(type(leaf))
        del self._objects[_MOST_STRUCTURES:]
        self._trees = [tree, *(known for known in self._trees if known != tree)][:_MOST_STRUCTURES]
        return leaves, tree

    def _read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], InputTree] | None:
        """As ``flatten``, without a walk; None where one has to tell."""
        if not self._trees:
            return None
        leaves, spec = flatten_tree((tuple(args), dict(kwargs)))
        inside: list[tuple[int, ObjectTensors]] = []
        for k in range(len(leaves)):
            if isinstance(leaves[k], torch.Tensor):
                if leaves[k].layout is not torch.strided:
                    return None
            elif may_hold_tensors(leaves[k]):
                found = self._of_object(leaves[k])
                if found is None or any(tensor.layout is not torch.strided for tensor in found[1]):
                    return None
                inside.append((k, found[0]))
                leaves += found[1]
        for tree in self._trees:
            if tree.spec == spec and _leads_to(tree, inside):
                return leaves, tree
        return None

    def _of_object(self, thing: Any) -> tuple[ObjectTensors, Sequence[torch.Tensor]] | None:
        """The tensors inside an object, where its structure is known."""
        for known in self._objects:
            tensors = known.of(thing)
            if tensors is not None:
                return known, tensors
        return None


def _leads_to(tree: InputTree, inside: Sequence[tuple[int, ObjectTensors]]) -> bool:
    """Whether the ways of ``tree`` are those to the tensors that were read."""
    found = [(k, steps) for k, known in inside for steps in known.steps]
    return [(way.leaf, way.steps) for way in tree.inside] == found and all(way.form is None for way in tree.inside)
