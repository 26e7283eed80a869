"""Copies to a pool in generated code: what a store, a release and a load of a schedule become.

A release becomes a wait for the store, and the first reader of what a load brings waits for the load. The calls form a chain,
so that code generation sees what depends on what: store, wait for it, load, wait for that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import fx

from remat_planner.planner.codegen.executions import Execution
from remat_planner.planner.codegen.instance_table import InstanceTable
from remat_planner.schedules import Graph, Transfer, simulate


class Loading(Protocol):
    """A load under way."""

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, once they are there for what runs after this."""


class StoredCopy(Protocol):
    """A copy in a pool."""

    def wait(self) -> None:
        """Wait until the copy is complete, so that the memory that was copied may be reused."""

    def load(self) -> Loading:
        """Allocate the tensors again and start the copy back."""


class StepPool(Protocol):
    """Memory of one pool that belongs to one forward and its backwards."""

    def store(self, offset: int, size: int, tensors: Sequence[torch.Tensor]) -> StoredCopy:
        """Start a copy of the storage of ``tensors`` to the ``size`` bytes at ``offset``."""


StepPools = Mapping[str, StepPool]
"""The pools of one step, by name."""


def store(pools: StepPools, *tensors: torch.Tensor, pool: str, offset: int, size: int) -> StoredCopy:
    """Start a copy; ``size`` bytes at ``offset`` of the pool are for it."""
    return pools[pool].store(offset, size, tensors)


def wait_for_store(stored: StoredCopy, *_tensors: torch.Tensor) -> StoredCopy:
    """Wait for a store. The tensors are an argument so that they live until here."""
    stored.wait()
    return stored


def load(stored: StoredCopy) -> Loading:
    """Start a load."""
    return stored.load()


def wait_for_load(loading: Loading) -> tuple[torch.Tensor, ...]:
    """The tensors that a load brings."""
    return loading.wait()


@dataclass(frozen=True)
class _Copied:
    """A storage on its way to a pool and back.

    Attributes:
        handle: the instance of its ``StoredCopy`` or ``Loading``.
        tensors: the instances that are copied.
        places: for each of these the node, and its position where it is an element of a tuple.
        newest: for each place the newest instance when the load began.
    """

    handle: int
    tensors: tuple[int, ...]
    places: tuple[tuple[fx.Node, int | None], ...]
    newest: tuple[int | None, ...] = ()


class Transfers:
    """Adds the transfers of a schedule to a straight line.

    Args:
        graph: the step.
        steps: the schedule.
        nodes: the node of each op, by name.
        table: the instances so far.
        executions: where the calls are added.

    Attributes:
        pools: the instance of the pools; None without transfers.
    """

    def __init__(
        self,
        graph: Graph,
        steps: Sequence[int],
        nodes: Mapping[str, fx.Node],
        table: InstanceTable,
        executions: list[Execution],
    ) -> None:
        self._graph, self._nodes, self._table, self._executions = graph, nodes, table, executions
        # What stands for the calls where code generation expects nodes of the captured graph.
        self._calls = fx.Graph()
        self._stored: dict[tuple[int, str], _Copied] = {}
        self._loading: dict[int, _Copied] = {}
        self._waits: Mapping[int, Sequence[int]] = {}
        self._place: dict[int, tuple[int, int]] = {}  # by the step of the store: offset and bytes in the pool
        self.pools: int | None = None
        if graph.pools and (traffic := simulate(graph, steps).traffic) is not None:
            self._waits = traffic.waits
            for copies in traffic.pools.values():
                places = zip(copies.offset.tolist(), copies.bytes.tolist(), strict=True)
                self._place.update(zip(copies.store.tolist(), places, strict=True))
            node = self._calls.placeholder("pools")
            node.meta["name"] = "pools"
            self.pools = table.new("source", node)

    def run(self, step: int, transfer: Transfer) -> None:
        """Add a transfer."""
        key = transfer.storage, transfer.pool.name
        if transfer.kind == "store":
            assert self.pools is not None
            places = tuple(place for place in self._places(transfer) if self._table.newest_of(*place) is not None)
            tensors = tuple(i for place in places if (i := self._table.newest_of(*place)) is not None)
            offset, size = self._place[step]
            where = {"pool": transfer.pool.name, "offset": offset, "size": size}
            handle = self._call(step, transfer.name, store, (self.pools, *tensors), **where)
            self._stored[key] = _Copied(handle, tensors, places)
        elif transfer.kind == "release":
            copied = self._stored[key]
            handle = self._call(step, transfer.name, wait_for_store, (copied.handle, *copied.tensors))
            self._stored[key] = replace(copied, handle=handle, tensors=())
        else:
            copied = self._stored[key]
            handle = self._call(step, transfer.name, load, (copied.handle,))
            newest = tuple(self._table.newest_of(*place) for place in copied.places)
            self._loading[step] = replace(copied, handle=handle, newest=newest)

    def wait_for_loads(self, step: int) -> None:
        """Add the waits for loads that ``step`` reads."""
        for load_step in self._waits.get(step, ()):
            if load_step not in self._loading:
                continue  # another step has waited for it, or it is a store
            loading = self._loading.pop(load_step)
            producer = len(self._executions)
            self._call(step, "wait for a load", wait_for_load, (loading.handle,))
            for position, (place, before) in enumerate(zip(loading.places, loading.newest, strict=True)):
                node, element = place
                instance = self._table.new("element", _named(node, element), producer=producer, element=position)
                self._executions[producer].elements.append(instance)
                if self._table.newest_of(*place) != before:
                    continue  # computed again in the meantime
                if element is None:
                    self._table.bind(node, instance)
                else:
                    self._table.bind_element(node, element, instance)
                    for user in node.users:
                        if (
                            user.target is operator.getitem
                            and user.args[1] == element
                            and user.meta.get("name") not in self._nodes
                        ):
                            self._table.bind(user, instance)

    def _places(self, transfer: Transfer) -> list[tuple[fx.Node, int | None]]:
        """The values of ``transfer`` as nodes and positions."""
        places: list[tuple[fx.Node, int | None]] = []
        for value in transfer.values:
            producer = self._graph.producer[value]
            assert producer is not None
            op = self._graph.ops[producer]
            node = self._nodes[op.name]
            result = node.meta["val"]
            if isinstance(result, torch.Tensor):
                places.append((node, None))
            else:
                positions = [k for k, element in enumerate(result) if isinstance(element, torch.Tensor)]
                places.append((node, positions[op.writes.index(value)]))
        return places

    def _call(
        self, step: int, name: str, function: Callable[..., Any], arguments: Sequence[int], **constants: int | str
    ) -> int:
        """Add a call on these instances; return the instance of its result."""
        parameters = tuple(self._calls.placeholder("argument") for _ in arguments)
        node = self._calls.call_function(function, parameters, dict(constants))
        node.meta["name"] = name
        result = self._table.new("result", node, producer=len(self._executions))
        self._executions.append(Execution(node, step, result, dict(zip(parameters, arguments, strict=True))))
        return result


def _named(node: fx.Node, element: int | None) -> fx.Node:
    """The node whose value an element of the tuple ``node`` is; ``node`` itself where it is no tuple."""
    if element is None:
        return node
    return next(user for user in node.users if user.target is operator.getitem and user.args[1] == element)
