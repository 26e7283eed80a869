"""The items of a graph: what its nodes leave behind in memory, as lists. ``Problem`` turns them into arrays."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from remat_planner.schedules import Graph, Op


@dataclass
class Items:
    """What each node reads and writes, and what each item is; see ``Problem`` for the terms.

    Attributes:
        reads: for each node the items that it reads, ascending.
        writes: for each node the items that it writes, ascending.
        bytes: for each item its bytes; 0 for in-place results.
        producer: for each item the node that writes it.
        base: for each item the item whose memory it shares; itself for an allocation.
        lasting: for each item whether it is a result.
        storages: for each item the storages that it consists of; none for in-place results.
    """

    reads: list[list[int]] = field(default_factory=list)
    writes: list[list[int]] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    producer: list[int] = field(default_factory=list)
    base: list[int] = field(default_factory=list)
    lasting: list[bool] = field(default_factory=list)
    storages: list[list[int]] = field(default_factory=list)


def items_of(graph: Graph, views: Container[int]) -> Items:
    """The items of ``graph``; the ops in ``views`` are dissolved, all others become nodes in the same order."""
    collector = _Collector(graph)
    for i, op in enumerate(graph.ops):
        if i in views:
            collector.dissolve(op)
        else:
            collector.add_node(op)
    return collector.items


def merged(items: Items) -> Items:
    """``items`` with those merged that are allocated and released together: written by one node, read by the same nodes."""
    twin = _twins(items)
    kept = sorted(set(twin))
    place = {item: k for k, item in enumerate(kept)}
    sizes = [0] * len(kept)
    storages: list[list[int]] = [[] for _ in kept]
    for item, size in enumerate(items.bytes):
        sizes[place[twin[item]]] += size
        storages[place[twin[item]]] += items.storages[item]
    return Items(
        reads=[sorted({place[twin[item]] for item in row}) for row in items.reads],
        writes=[sorted({place[twin[item]] for item in row}) for row in items.writes],
        bytes=sizes,
        producer=[items.producer[item] for item in kept],
        base=[place[items.base[item]] for item in kept],
        lasting=[items.lasting[item] for item in kept],
        storages=storages,
    )


class _Collector:
    """Walks the ops in order and remembers which item each value lives on; -1 stands for constants."""

    def __init__(self, graph: Graph) -> None:
        self.items = Items()
        self._graph = graph
        self._results = set(graph.results)
        self._item_of = [-1] * len(graph.values)
        self._allocation: dict[int, int] = {}  # storage: the item that allocates it

    def dissolve(self, view: Op) -> None:
        """What ``view`` writes lives on the item that it reads."""
        source = next((self._item_of[value] for value in view.reads if self._item_of[value] >= 0), -1)
        for value in view.writes:
            self._item_of[value] = source
            if source >= 0 and value in self._results:
                self.items.lasting[source] = True

    def add_node(self, op: Op) -> None:
        """Make ``op`` a node, with one item for each storage that it writes."""
        items = self.items
        read = {self._item_of[value] for value in op.reads if self._item_of[value] >= 0}
        items.reads.append(sorted(read | {items.base[item] for item in read}))
        written: dict[int, int] = {}  # storage: item
        for value in op.writes:
            storage = self._graph.values[value].storage
            if self._graph.storages[storage].constant:
                continue
            if storage not in written:
                written[storage] = self._new_item(storage, producer=len(items.writes))
            item = self._item_of[value] = written[storage]
            items.lasting[item] |= value in self._results
        items.writes.append(sorted(written.values()))

    def _new_item(self, storage: int, producer: int) -> int:
        items, item = self.items, len(self.items.bytes)
        in_place = storage in self._allocation
        items.bytes.append(0 if in_place else self._graph.storages[storage].bytes)
        items.producer.append(producer)
        items.base.append(self._allocation.setdefault(storage, item))
        items.lasting.append(False)
        items.storages.append([] if in_place else [storage])
        return item


def _twins(items: Items) -> list[int]:
    """For each item the first item that is written by the same node, read by the same nodes, and lasts equally."""
    readers: list[list[int]] = [[] for _ in items.base]
    for node, row in enumerate(items.reads):
        for item in row:
            readers[item].append(node)
    shares_memory = {item for pair in enumerate(items.base) if pair[0] != pair[1] for item in pair}
    twin = list(range(len(items.base)))
    for row in items.writes:
        first: dict[tuple[bool, tuple[int, ...]], int] = {}
        for item in row:
            if item not in shares_memory:
                twin[item] = first.setdefault((items.lasting[item], tuple(readers[item])), item)
    return twin
