"""The reduced form of a graph that every solver works on: arrays, without views.

A *node* is an op that a solver decides about; nodes are numbered in execution order. An *item* is what a node leaves behind on
one storage: an allocation, or an in-place result, which has no bytes of its own and lives on its ``base`` item. Parameters,
buffers and inputs are always there, so nothing reads them here; their bytes are ``constant_bytes``.

Allocations that one node makes and the same nodes read come and go together: they are one item (the mean and the deviation of
a normalization). Free views (ops that cost nothing, hold nothing and only alias one storage) are dissolved: who reads a view
reads its base. ``expand`` puts them back, just before their first reader after their base was computed, so that no stale view
keeps an old instance alive: the peak of the expanded steps by ``schedules.simulate`` is the peak by ``Problem.simulate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Graph, InvalidScheduleError, Simulation

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """Arrays over the n nodes and m items of ``graph``; build it with ``Problem.of``.

    Attributes:
        ops: int64[n], the op index of each node.
        cost: float64[n], seconds of each node.
        workspace: int64[n], bytes held only while the node runs.
        replay: int64[n], bytes held from the first to the last run of a node that runs more than once.
        pinned: bool[n], must run exactly once: pinned ops, the caller's loss, and what those write onto in place.
        outside: bool[n], the caller's loss: nothing may be put between two of these nodes.
        forward: bool[n], not dependent on the incoming gradient.
        auxiliary: bool[n], may first run anywhere before its first reader; there is one, and it makes no result.
        bytes: int64[m], bytes of each item; 0 for in-place results.
        producer: int64[m], the node that makes the item.
        base: int64[m], the item whose memory an in-place result shares; itself for an allocation. Whoever reads an in-place
            result reads its base too. Computing a base again makes the in-place results on it stale: they must run again before
            their next reader (a solver that cannot do this may leave ``in_place`` nodes and their bases alone).
        lasting: bool[m], a result: the instance that the producer makes at its first run lives to the end.
        read_ptr, read_items: CSR, the items that each node reads, ascending.
        write_ptr, write_items: CSR, the items that each node makes, ascending.
        constant_bytes: bytes that are there all the time.
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
    bytes: Ints
    producer: Ints
    base: Ints
    lasting: Bools
    read_ptr: Ints
    read_items: Ints
    write_ptr: Ints
    write_items: Ints
    constant_bytes: int

    @classmethod
    def of(cls, graph: Graph) -> Problem:
        """Reduce ``graph``: dissolve its views and constants."""
        views = _free_views(graph)
        ops = [i for i in range(len(graph.ops)) if i not in views]
        node_of = {i: node for node, i in enumerate(ops)}
        storage_of = [value.storage for value in graph.values]
        results = set(graph.results)
        allocation: dict[int, int] = {}
        item_of: list[int] = [-1] * len(graph.values)
        bytes_: list[int] = []
        producer: list[int] = []
        base: list[int] = []
        lasting: list[bool] = []
        reads: list[list[int]] = []
        writes: list[list[int]] = []
        for i, op in enumerate(graph.ops):
            if i in views:
                source = next((item_of[v] for v in op.reads if item_of[v] >= 0), -1)
                for value in op.writes:
                    item_of[value] = source
                    if source >= 0 and value in results:
                        lasting[source] = True
                continue
            read = {item_of[v] for v in op.reads if item_of[v] >= 0}
            reads.append(sorted(read | {base[item] for item in read}))
            made: dict[int, int] = {}
            for value in op.writes:
                storage = storage_of[value]
                if graph.storages[storage].constant:
                    continue
                if storage not in made:
                    item = made[storage] = len(bytes_)
                    fresh = storage not in allocation
                    base.append(allocation.setdefault(storage, item))
                    bytes_.append(graph.storages[storage].bytes if fresh else 0)
                    producer.append(node_of[i])
                    lasting.append(False)
                item_of[value] = made[storage]
                lasting[made[storage]] |= value in results
            writes.append(sorted(made.values()))
        twin = _twins(reads, writes, base, lasting)
        kept = sorted(set(twin))
        place = {item: k for k, item in enumerate(kept)}
        reads, writes = ([sorted({place[twin[item]] for item in items}) for items in rows] for rows in (reads, writes))
        together = [0] * len(kept)
        for item, size in enumerate(bytes_):
            together[place[twin[item]]] += size
        bytes_, producer, lasting = together, [producer[item] for item in kept], [lasting[item] for item in kept]
        base = [place[base[item]] for item in kept]
        chosen = [graph.ops[i] for i in ops]
        read = {item for items in reads for item in items}
        late = [
            op.auxiliary and not op.outside and not read.isdisjoint(made) and not any(lasting[i] for i in made)
            for op, made in zip(chosen, writes, strict=True)
        ]
        pinned = [op.pinned is not None or op.outside for op in chosen]
        for item, root in enumerate(base):
            pinned[producer[root]] |= pinned[producer[item]] and root != item
        read_ptr, read_items = _csr(reads)
        write_ptr, write_items = _csr(writes)
        return cls(
            graph=graph,
            ops=np.array(ops, dtype=np.int64),
            cost=np.array([op.seconds for op in chosen], dtype=np.float64),
            workspace=np.array([op.workspace for op in chosen], dtype=np.int64),
            replay=np.array([op.replay_bytes for op in chosen], dtype=np.int64),
            pinned=np.array(pinned, dtype=np.bool_),
            outside=np.array([op.outside for op in chosen], dtype=np.bool_),
            forward=np.array([op.phase == "forward" for op in chosen], dtype=np.bool_),
            auxiliary=np.array(late, dtype=np.bool_),
            bytes=np.array(bytes_, dtype=np.int64),
            producer=np.array(producer, dtype=np.int64),
            base=np.array(base, dtype=np.int64),
            lasting=np.array(lasting, dtype=np.bool_),
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
        """For each node the items that it makes."""
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

    def simulate(self, nodes: Sequence[int]) -> Simulation:
        """Run a sequence of nodes on paper: as ``schedules.simulate`` does on the expanded steps, but faster.

        ``bytes`` of the answer has one entry per node run, constants and workspace included.

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
                    raise self._invalid(step, node, "reads what is stale or has not been computed by then")
                death[current] = step
            again = first[node] >= 0
            if again and self.pinned[node]:
                raise self._invalid(step, node, "runs twice, but must run once")
            for item in self.writes[node]:
                if base[item] == item:
                    instance[item] = len(birth)
                    birth.append(step)
                    death.append(step)
                    size.append(bytes_[item])
                else:
                    instance[item] = instance[base[item]]
                if is_lasting[item] and not again:
                    lasting.append(instance[item])
            if not again:
                first[node] = step
            last[node] = step
        for node, step in enumerate(first):
            if step < 0:
                raise self._invalid(None, node, "never runs")
        for made in lasting:
            death[made] = length - 1
        for node in np.flatnonzero(self.replay).tolist():
            if last[node] > first[node]:
                birth.append(first[node])
                death.append(last[node])
                size.append(int(self.replay[node]))
        change = np.zeros(length + 1, dtype=np.int64)
        sizes = np.array(size, dtype=np.int64)
        np.add.at(change, np.array(birth, dtype=np.int64), sizes)
        np.subtract.at(change, np.array(death, dtype=np.int64) + 1, sizes)
        index = np.array(order, dtype=np.int64)
        live = np.cumsum(change[:-1]) + self.workspace[index] + self.constant_bytes
        return Simulation(
            seconds=math.fsum(self.cost[index]),
            peak_bytes=int(live.max()) if length else self.constant_bytes,
            bytes=live,
        )

    def expand(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """Op steps for a sequence of nodes: the views put back, each just before the readers that need it."""
        graph = self.graph
        producer = graph.producer
        views = self._views
        runs = [0] * len(graph.storages)
        stamp: dict[int, int] = {}
        steps: list[int] = []

        def refresh(view: int) -> None:
            """Run ``view``, and the views below it, unless they have seen the newest instance of what they alias."""
            pending = [view]
            while pending:
                top = pending[-1]
                if stamp.get(top, -1) == runs[views[top]]:
                    pending.pop()
                    continue
                below = [p for v in graph.ops[top].reads if (p := producer[v]) in views and stamp.get(p, -1) != runs[views[p]]]
                if below:
                    pending.extend(below)
                    continue
                pending.pop()
                stamp[top] = runs[views[top]]
                steps.append(top)

        for view in self._unread_views.get(-1, ()):
            refresh(view)
        ran = [False] * self.n
        for node in nodes:
            i = int(self.ops[node])
            for value in graph.ops[i].reads:
                if (source := producer[value]) in views:
                    refresh(source)
            steps.append(i)
            for storage in graph.allocated[i]:
                runs[storage] += 1
            if not ran[node]:
                ran[node] = True
                for view in self._unread_views.get(i, ()):
                    refresh(view)
        return tuple(steps)

    @cached_property
    def _views(self) -> dict[int, int]:
        return _free_views(self.graph)

    @cached_property
    def _unread_views(self) -> dict[int, list[int]]:
        """Views that no node asks for in time (results, and what nothing reads), by the op after whose first run they run.

        -1 stands for the start: views of constants.
        """
        graph, views = self.graph, self._views
        results = set(graph.results)
        read = {value for i in self.ops for value in graph.ops[i].reads}
        origin: dict[int, int] = {}
        unread: dict[int, list[int]] = {}
        for view in views:
            op = graph.ops[view]
            sources = [graph.producer[v] for v in op.reads if not graph.storages[graph.values[v].storage].constant]
            source = sources[0] if sources else None
            origin[view] = -1 if source is None else origin.get(source, source)
            if results.intersection(op.writes) or not read.intersection(op.writes):
                unread.setdefault(origin[view], []).append(view)
        return unread

    def _invalid(self, step: int | None, node: int, fault: str) -> InvalidScheduleError:
        name = self.graph.ops[int(self.ops[node])].name
        where = "" if step is None else f" at position {step} of the nodes"
        return InvalidScheduleError(f"{name!r}{where} {fault}", step=step, op=name)


def _twins(reads: list[list[int]], writes: list[list[int]], base: list[int], lasting: list[bool]) -> list[int]:
    """For each item the first of those that come and go with it: made by one node, read by the same nodes."""
    readers: list[list[int]] = [[] for _ in base]
    for node, items in enumerate(reads):
        for item in items:
            readers[item].append(node)
    in_place = {item for pair in enumerate(base) if pair[0] != pair[1] for item in pair}
    twin = list(range(len(base)))
    for made in writes:
        first: dict[tuple[bool, tuple[int, ...]], int] = {}
        for item in made:
            if item not in in_place:
                twin[item] = first.setdefault((lasting[item], tuple(readers[item])), item)
    return twin


def _free_views(graph: Graph) -> dict[int, int]:
    """Ops that can be dissolved, with the storage that each aliases."""
    views: dict[int, int] = {}
    for i, op in enumerate(graph.ops):
        if op.seconds or op.workspace or op.replay_bytes or op.pinned is not None or op.outside or not op.writes:
            continue
        written = {graph.values[v].storage for v in op.writes}
        read = {v for v in op.reads if not graph.storages[graph.values[v].storage].constant} or set(op.reads)
        if len(read) == 1 and written == {graph.values[v].storage for v in read}:
            views[i] = written.pop()
    return views


def _csr(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    pointer = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=pointer[1:])
    return pointer, np.array([item for row in rows for item in row], dtype=np.int64)


def _rows(pointer: Ints, items: Ints) -> tuple[tuple[int, ...], ...]:
    flat, ends = items.tolist(), pointer.tolist()
    return tuple(tuple(flat[a:b]) for a, b in pairwise(ends))
