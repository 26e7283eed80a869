"""The reduced form of a graph that every solver works on: arrays, without views and constants.

A *node* is an op that solvers decide about; nodes are numbered in execution order. An *item* is what a node leaves behind on
one storage: an allocation, or an in-place result, which has no bytes of its own and lives on its ``base`` item. Parameters,
buffers and inputs are always resident, so they are no items; their bytes are ``constant_bytes``.

Two reductions keep the optimum as it is. Allocations that one node makes and the same nodes read are one item, such as the mean
and deviation of a normalization. Free views are dissolved: a reader of a view reads its base. ``expand`` puts the views back,
and the peak of the expanded steps by ``schedules.simulate`` equals the peak by ``Problem.simulate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Graph, InvalidScheduleError, Op, Simulation, live_bytes
from remat_planner.solvers.problem.items import Items, items_of, merged
from remat_planner.solvers.problem.views import Views

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """Arrays over the n nodes and m items of ``graph``; build it with ``Problem.of``.

    Attributes:
        ops: int64[n], the op index of each node.
        cost: float64[n], seconds of each node.
        workspace: int64[n], bytes allocated only while the node runs.
        replay: int64[n], bytes held from the first to the last run of a node that runs more than once.
        pinned: bool[n], must run exactly once: pinned ops, the caller's loss, and bases that those overwrite in place.
        outside: bool[n], the caller's loss: nothing may run between two of these nodes.
        forward: bool[n], does not depend on the incoming gradient.
        in_turn: bool[n], draws random numbers or updates state: the first runs of these nodes keep their order.
        auxiliary: bool[n], may first run anywhere before its first reader; it has a reader and makes no result.
        bytes: int64[m], bytes of each item; 0 for in-place results.
        producer: int64[m], the node that writes the item.
        base: int64[m], the item whose memory an in-place result shares; itself for an allocation. A reader of an in-place
            result also reads its base. Recomputing a base makes its in-place results stale: they must run again before their
            next reader. (A solver that cannot do this may leave ``in_place`` nodes and their bases alone.)
        lasting: bool[m], a result: the instance that the producer's first run allocates lives to the end.
        storages: for each item the storages of ``graph`` that it consists of; none for in-place results.
        read_ptr, read_items: CSR, the items that each node reads, ascending.
        write_ptr, write_items: CSR, the items that each node writes, ascending.
        constant_bytes: bytes resident all the time.
    """

    graph: Graph
    ops: Ints
    cost: Floats
    workspace: Ints
    replay: Ints
    pinned: Bools
    outside: Bools
    forward: Bools
    auxiliary: Bools
    in_turn: Bools
    bytes: Ints
    producer: Ints
    base: Ints
    lasting: Bools
    storages: tuple[tuple[int, ...], ...]
    read_ptr: Ints
    read_items: Ints
    write_ptr: Ints
    write_items: Ints
    constant_bytes: int

    @classmethod
    def of(cls, graph: Graph) -> Problem:
        """Reduce ``graph``."""
        views = Views(graph).storage
        chosen = [i for i in range(len(graph.ops)) if i not in views]
        ops = [graph.ops[i] for i in chosen]
        items = merged(items_of(graph, views))
        read_ptr, read_items = _csr(items.reads)
        write_ptr, write_items = _csr(items.writes)
        return cls(
            graph=graph,
            ops=_ints(chosen),
            cost=np.array([op.seconds for op in ops], dtype=np.float64),
            workspace=_ints(op.workspace for op in ops),
            replay=_ints(op.replay_bytes for op in ops),
            pinned=_bools(_pinned(ops, items)),
            outside=_bools(op.outside for op in ops),
            forward=_bools(op.phase == "forward" for op in ops),
            auxiliary=_bools(_auxiliary(ops, items)),
            in_turn=_bools(op.in_turn or op.replay_bytes > 0 for op in ops),
            bytes=_ints(items.bytes),
            producer=_ints(items.producer),
            base=_ints(items.base),
            lasting=_bools(items.lasting),
            storages=tuple(map(tuple, items.storages)),
            read_ptr=read_ptr,
            read_items=read_items,
            write_ptr=write_ptr,
            write_items=write_items,
            constant_bytes=graph.constant_bytes,
        )

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.ops)

    @property
    def m(self) -> int:
        """Number of items."""
        return len(self.bytes)

    @cached_property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """For each node the items that it reads."""
        return _rows(self.read_ptr, self.read_items)

    @cached_property
    def writes(self) -> tuple[tuple[int, ...], ...]:
        """For each node the items that it writes."""
        return _rows(self.write_ptr, self.write_items)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each item the nodes that read it, ascending."""
        readers: list[list[int]] = [[] for _ in range(self.m)]
        for node, items in enumerate(self.reads):
            for item in items:
                readers[item].append(node)
        return tuple(map(tuple, readers))

    @cached_property
    def in_place(self) -> Bools:
        """bool[m]: items that live on another item's memory."""
        return np.not_equal(self.base, np.arange(self.m))

    @cached_property
    def seconds(self) -> float:
        """Seconds of the step without any recomputation."""
        return math.fsum(self.cost)

    def reordered(self, order: Sequence[int]) -> Problem:
        """The same problem with its nodes in this ``order``, in which each one comes after those that it reads of."""
        place = np.empty(self.n, dtype=np.int64)
        place[order] = np.arange(self.n)
        read_ptr, read_items = _csr([self.reads[node] for node in order])
        write_ptr, write_items = _csr([self.writes[node] for node in order])
        of_nodes = ("ops", "cost", "workspace", "replay", "pinned", "outside", "forward", "auxiliary", "in_turn")
        arrays: dict[str, Any] = {name: getattr(self, name)[order] for name in of_nodes}
        return replace(
            self,
            **arrays,
            producer=place[self.producer],
            read_ptr=read_ptr,
            read_items=read_items,
            write_ptr=write_ptr,
            write_items=write_items,
        )

    def simulate(self, nodes: Sequence[int]) -> Simulation:
        """Seconds and bytes of a sequence of nodes: as ``schedules.simulate`` of the expanded steps, but faster.

        ``bytes`` has one entry per node of the sequence, constants and workspace included.

        Raises:
            InvalidScheduleError: a node reads what is stale or not computed, a pinned node runs twice, a node never runs.
        """
        order = [int(node) for node in nodes]
        length = len(order)
        instance = [-1] * self.m
        birth: list[int] = []
        death: list[int] = []
        size: list[int] = []
        lasting: list[int] = []
        first = [-1] * self.n
        last = [-1] * self.n
        base, bytes_, is_lasting = self.base.tolist(), self.bytes.tolist(), self.lasting.tolist()
        for step, node in enumerate(order):
            for item in self.reads[node]:
                current = instance[item]
                if current < 0 or current != instance[base[item]]:
                    raise self._invalid(step, node, "reads what is stale or not yet computed")
                death[current] = step
            recomputes = first[node] >= 0
            if recomputes and self.pinned[node]:
                raise self._invalid(step, node, "runs twice, but must run once")
            for item in self.writes[node]:
                if base[item] == item:
                    instance[item] = len(birth)
                    birth.append(step)
                    death.append(step)
                    size.append(bytes_[item])
                else:
                    instance[item] = instance[base[item]]
                if is_lasting[item] and not recomputes:
                    lasting.append(instance[item])
            if not recomputes:
                first[node] = step
            last[node] = step
        for node, step in enumerate(first):
            if step < 0:
                raise self._invalid(None, node, "never runs")
        for result in lasting:
            death[result] = length - 1
        for node in np.flatnonzero(self.replay).tolist():
            if last[node] > first[node]:
                birth.append(first[node])
                death.append(last[node])
                size.append(int(self.replay[node]))
        index = _ints(order)
        live = live_bytes(_ints(birth), _ints(death), _ints(size), length) + self.workspace[index] + self.constant_bytes
        return Simulation(
            seconds=math.fsum(self.cost[index]),
            peak_bytes=int(live.max()) if length else self.constant_bytes,
            bytes=live,
        )

    def expand(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """Op steps for a sequence of nodes, views included."""
        return self.with_views(self.ops[list(nodes)].tolist())

    def with_views(self, steps: Iterable[int]) -> tuple[int, ...]:
        """Steps for a sequence of ops without free views, and of transfers: the same steps with the views that they need."""
        return self._views.restore(steps)

    def keeps_order(self, steps: Sequence[int]) -> bool:
        """Whether first executions in op steps are in the graph's order, but for auxiliary ones, which may come late."""
        nodes = self.nodes_of(steps)
        first = np.full(self.n, len(nodes), dtype=np.int64)
        np.minimum.at(first, nodes, np.arange(len(nodes)))
        return bool((np.diff(first[~self.auxiliary]) >= 0).all())

    def nodes_of(self, steps: Sequence[int]) -> list[int]:
        """The nodes among op steps: the inverse of ``expand``."""
        node_of = dict(zip(self.ops.tolist(), range(self.n), strict=True))
        return [node_of[step] for step in steps if step in node_of]

    @cached_property
    def _views(self) -> Views:
        return Views(self.graph)

    def _invalid(self, step: int | None, node: int, fault: str) -> InvalidScheduleError:
        name = self.graph.ops[int(self.ops[node])].name
        where = "" if step is None else f" at position {step} of the nodes"
        return InvalidScheduleError(f"{name!r}{where} {fault}", step=step, op=name)


def _pinned(ops: Sequence[Op], items: Items) -> list[bool]:
    pinned = [op.pinned is not None or op.outside for op in ops]
    for item, root in enumerate(items.base):
        pinned[items.producer[root]] |= pinned[items.producer[item]] and root != item
    return pinned


def _auxiliary(ops: Sequence[Op], items: Items) -> list[bool]:
    read = {item for row in items.reads for item in row}
    return [
        op.auxiliary and not op.outside and not read.isdisjoint(row) and not any(items.lasting[item] for item in row)
        for op, row in zip(ops, items.writes, strict=True)
    ]


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)


def _bools(values: Iterable[bool]) -> Bools:
    return np.array(list(values), dtype=np.bool_)


def _csr(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    pointer = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=pointer[1:])
    return pointer, _ints(item for row in rows for item in row)


def _rows(pointer: Ints, items: Ints) -> tuple[tuple[int, ...], ...]:
    flat, ends = items.tolist(), pointer.tolist()
    return tuple(tuple(flat[a:b]) for a, b in pairwise(ends))
