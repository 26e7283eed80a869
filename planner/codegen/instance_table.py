"""The instances of a straight line while it is written: which is the newest of each node, and which share a storage."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from remat_planner.planner.codegen.executions import Instance, InstanceKind
from remat_planner.tracer.torch_private import storage_key


class InstanceTable:
    """Instances by what they are instances of.

    Attributes:
        all: the instances.
        newest: the newest one of each node.
        first: the first one of each node.
        elements: the newest one of each element of a tuple, by the node of the tuple and the position.
    """

    def __init__(self) -> None:
        self.all: list[Instance] = []
        self.newest: dict[fx.Node, int] = {}
        self.first: dict[fx.Node, int] = {}
        self.elements: dict[tuple[fx.Node, int], int] = {}
        self._views: dict[tuple[Any, ...], int] = {}
        self._families = 0

    def new(
        self,
        kind: InstanceKind,
        node: fx.Node,
        reads: dict[fx.Node, int] | None = None,
        *,
        producer: int = -1,
        element: int = 0,
    ) -> int:
        """Add an instance; it joins the family of an argument whose storage it has."""
        family = None
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and reads:
            key = storage_key(value)
            family = next((self.all[i].family for a, i in reads.items() if key in _storage_keys(a)), None)
        if family is None:
            family = self._families
            self._families += 1
        self.all.append(Instance(kind, node, family, producer, element))
        new = len(self.all) - 1
        if isinstance(value, torch.Tensor) and kind != "generator state":
            self._views.setdefault((family, *_strides(value)), new)
        return new

    def bind(self, node: fx.Node, instance: int) -> int:
        """Make an instance the newest one of ``node``."""
        self.newest[node] = instance
        self.first.setdefault(node, instance)
        return instance

    def bind_element(self, node: fx.Node, position: int, instance: int) -> None:
        """Make an instance the newest one of an element of the tuple ``node``."""
        self.elements[node, position] = instance

    def newest_of(self, node: fx.Node, position: int | None) -> int | None:
        """The newest instance of ``node``, or of one element of the tuple that it returns; None where there is none."""
        return self.newest.get(node) if position is None else self.elements.get((node, position))

    def equal_view(self, node: fx.Node, reads: dict[fx.Node, int]) -> int | None:
        """An instance with the storage and the strided form of the view ``node``; None where there is none."""
        key = storage_key(node.meta["val"])
        base = next((i for argument, i in reads.items() if key in _storage_keys(argument)), None)
        return None if base is None else self._views.get((self.all[base].family, *_strides(node.meta["val"])))


def _storage_keys(node: fx.Node) -> set[int]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {storage_key(v) for v in values if isinstance(v, torch.Tensor)}


def _strides(value: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, value.is_conj(), value.is_neg())
