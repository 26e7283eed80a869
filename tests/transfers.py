"""Random pools and random valid schedules with transfers for hypothesis."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from remat_planner.schedules import Channel, Graph, Pool, PoolName

FREE = Channel(math.inf)

_Copy = tuple[int, PoolName]  # of a storage, in a pool


def channels() -> st.SearchStrategy[Channel]:
    """Channels with whole rates and latencies; most do not slow ops."""
    return st.builds(
        Channel,
        bytes_per_second=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
        latency=st.sampled_from([0.0, 0.0, 1.0]),
        slowdown=st.sampled_from([1.0, 1.0, 1.5, 2.0]),
    )


@st.composite
def with_pools(draw: st.DrawFn, graph: Graph, channel: st.SearchStrategy[Channel] | None = None) -> Graph:
    """``graph`` with a host, a disk or both, which take whatever is stored."""
    channel = channels() if channel is None else channel
    pools: list[tuple[PoolName, ...]] = [("host",), ("disk",), ("host", "disk")]
    names = draw(st.sampled_from(pools))
    return graph.with_transfers(
        Pool(name, 10**6, draw(channel), draw(channel), block=draw(st.sampled_from([1, 4]))) for name in names
    )


@st.composite
def transfer_schedules(draw: st.DrawFn, graph: Graph, base: list[int]) -> list[int]:
    """``base``, steps without transfers, with random stores, releases and loads between them.

    What a step misses after a release is loaded, or computed again if it is a view.
    """
    return _Inserter(draw, graph).run(base)


class _Inserter:
    """Issues transfers at random and repairs what they take away.

    ``instance`` numbers the instance that each value is bound to, None where there is none; the other tables are by storage and
    pool, ``unread`` by instance: the place of its load among the steps.
    """

    def __init__(self, draw: st.DrawFn, graph: Graph) -> None:
        self.draw, self.graph = draw, graph
        self.steps: list[int] = []
        self.instance: list[int | None] = [None] * len(graph.values)
        self.instances = 0
        self.pending: dict[_Copy, int] = {}
        self.stored: set[_Copy] = set()
        self.unread: dict[int, int] = {}

    def run(self, base: list[int]) -> list[int]:
        for i in base:
            self.some_transfers()
            self.execute(i)
        while self.pending:
            self.release(self.draw(st.sampled_from(sorted(self.pending))))
        unread = set(self.unread.values())
        return [i for place, i in enumerate(self.steps) if place not in unread]

    def some_transfers(self) -> None:
        for _ in range(self.draw(st.integers(0, 2))):
            could: list[tuple[str, _Copy]] = []
            for transfer in self.graph.transfers:
                key = transfer.storage, transfer.pool.name
                resident = self.instance[transfer.values[0]] is not None
                if (
                    (transfer.kind == "store" and resident and key not in self.pending)
                    or (transfer.kind == "release" and key in self.pending)
                    or (transfer.kind == "load" and key in self.stored and key not in self.pending)
                ):
                    could.append((transfer.kind, key))
            if could:
                kind, key = self.draw(st.sampled_from(could))
                {"store": self.store, "release": self.release, "load": self.load}[kind](key)

    def store(self, key: _Copy) -> None:
        steps = self.graph.copy_steps(*key)
        instance = self.instance[self.graph.transfers[steps.store - len(self.graph.ops)].values[0]]
        assert instance is not None
        self.steps.append(steps.store)
        self.pending[key] = instance

    def release(self, key: _Copy) -> None:
        self.steps.append(self.graph.copy_steps(*key).release)
        released = self.pending.pop(key)
        self.stored.add(key)
        self.unread.pop(released, None)
        self.instance = [None if instance == released else instance for instance in self.instance]

    def load(self, key: _Copy) -> None:
        load = self.graph.copy_steps(*key).load
        self.instances += 1
        self.unread[self.instances] = len(self.steps)
        self.steps.append(load)
        for value in self.graph.transfers[load - len(self.graph.ops)].values:
            self.instance[value] = self.instances

    def execute(self, i: int) -> None:
        op = self.graph.ops[i]
        for value in op.reads:
            self.bring(value)
        for value in op.reads:  # bringing one may have bound another to a new instance, which the op now reads
            if (instance := self.instance[value]) is not None:
                self.unread.pop(instance, None)
        self.steps.append(i)
        storage_of = [value.storage for value in self.graph.values]
        on = {storage_of[value]: self.instance[value] for value in reversed(op.reads)}
        for value in op.writes:
            if storage_of[value] not in on:
                self.instances += 1
                on[storage_of[value]] = self.instances
            self.instance[value] = on[storage_of[value]]

    def bring(self, value: int) -> None:
        if self.instance[value] is not None or self.graph.storages[self.graph.values[value].storage].constant:
            return
        producer = self.graph.producer[value]
        assert producer is not None
        could = [
            (t.storage, t.pool.name)
            for t in self.graph.transfers
            if t.kind == "load" and value in t.values and (t.storage, t.pool.name) in self.stored - self.pending.keys()
        ]
        if could:
            self.load(self.draw(st.sampled_from(could)))
        else:
            self.execute(producer)
