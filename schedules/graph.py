"""The training step as data: ops in execution order, the values they read and write, the storages those live in.

Memory is counted in *storages* (allocations), not in values: a view has no bytes of its own and keeps its base alive, an
op with several outputs may allocate several storages, and an in-place result uses the storage of its input. One rule covers
all three: a written value lives in the storage instance of the first value that the op reads on that storage, or in a new
instance if the op reads none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import networkx

from remat_planner.schedules.errors import GraphError

Phase = Literal["forward", "backward"]


@dataclass(frozen=True, slots=True)
class Storage:
    """One allocation. ``constant`` storages (parameters, buffers, inputs) are counted in ``Graph.constants`` instead."""

    bytes: int
    constant: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: a view onto ``Graph.storages[storage]``."""

    name: str
    storage: int
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """One execution unit of the step.

    Attributes:
        name: unique and stable across traces; schedule files refer to ops by name.
        reads: the values it reads, as indices into ``Graph.values``.
        writes: the values it computes, as indices into ``Graph.values``.
        seconds: duration of one execution.
        flops: floating-point operations of one execution.
        workspace: bytes allocated only while the op runs.
        phase: "backward" if the op depends on the incoming gradient.
        pinned: why the op must run exactly once, or None.
        auxiliary: forward work that only the backward needs; it may first run anywhere before its first reader.
        outside: part of the caller's loss, which runs between the forward and the backward and cannot be moved.
        replay_bytes: random-generator state held from the first to the last execution of an op that runs more than once.
        kind: the operator, for reports.
        module: path of the module, for reports.
        source: file:line, for reports.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    seconds: float = 0.0
    flops: int = 0
    workspace: int = 0
    phase: Phase = "forward"
    pinned: str | None = None
    auxiliary: bool = False
    outside: bool = False
    replay_bytes: int = 0
    kind: str = ""
    module: str = ""
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """A training step. The index order of ``ops`` is a valid execution order, the one that the framework would run.

    Attributes:
        ops: in execution order.
        values: the tensors that ops read and write.
        storages: the allocations that values live in.
        results: values that outlive the step, as indices: model outputs, which the caller holds, and gradients.
        constants: bytes resident all the time, by kind ("parameters", "buffers", "inputs", "optimizer").
        update: bytes that the optimizer's step takes after the backward, beyond the constants and results.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    storages: tuple[Storage, ...]
    results: tuple[int, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)
    update: int = 0

    def __post_init__(self) -> None:
        _validate(self)

    @classmethod
    def from_dag(
        cls,
        costs: Sequence[float],
        sizes: Sequence[int],
        edges: Iterable[tuple[int, int]],
        backward: Sequence[bool] | int | None = None,
    ) -> Graph:
        """A simple graph: op ``i`` takes ``costs[i]`` seconds and writes one storage of ``sizes[i]`` bytes.

        Execution order is index order, so every edge ``(producer, consumer)`` must lead to a higher index. ``backward`` marks
        the backward ops: one flag per op, or the index of the first. Nothing outlives the step.

        Raises:
            GraphError: an edge to a missing op or against the order (a cycle), a negative or NaN cost or size.
        """
        n = len(costs)
        if len(sizes) != n:
            raise GraphError(f"{n} costs but {len(sizes)} sizes: give one of each for every op")
        if backward is None:
            flags = [False] * n
        elif isinstance(backward, int):
            flags = [i >= backward for i in range(n)]
        else:
            flags = [bool(flag) for flag in backward]
            if len(flags) != n:
                raise GraphError(f"{n} ops but {len(flags)} backward flags: give one for every op")
        reads: list[list[int]] = [[] for _ in range(n)]
        for u, v in edges:
            if not (0 <= u < n and 0 <= v < n):
                raise GraphError(f"edge ({u}, {v}) leads to nowhere: ops are numbered 0 to {n - 1}")
            if u >= v:
                raise GraphError(
                    f"edge ({u}, {v}) points backwards: ops run in index order, so a producer must come before its consumer "
                    "(number the ops topologically; a cycle cannot be scheduled)"
                )
            if u not in reads[v]:
                reads[v].append(u)
        ops = tuple(
            Op(
                name=f"op{i}",
                reads=tuple(sorted(reads[i])),
                writes=(i,),
                seconds=float(costs[i]),
                phase="backward" if flags[i] else "forward",
            )
            for i in range(n)
        )
        values = tuple(Value(name=f"v{i}", storage=i) for i in range(n))
        return cls(ops=ops, values=values, storages=tuple(Storage(_whole_bytes(i, size)) for i, size in enumerate(sizes)))

    @cached_property
    def constant_bytes(self) -> int:
        """Bytes resident during the whole step."""
        return sum(self.constants.values())

    @cached_property
    def lasting_bytes(self) -> int:
        """Bytes of the results, which stay allocated after the step."""
        lasting = {self.values[value].storage for value in self.results}
        return sum(self.storages[s].bytes for s in lasting if not self.storages[s].constant)

    @cached_property
    def update_peak(self) -> int:
        """Bytes at the peak of the optimizer's step, the same for every schedule."""
        return self.constant_bytes + self.lasting_bytes + self.update

    @cached_property
    def seconds(self) -> float:
        """Seconds of the step without any recomputation."""
        return math.fsum(op.seconds for op in self.ops)

    @cached_property
    def producer(self) -> tuple[int | None, ...]:
        """The op that writes each value; None for parameters, buffers and inputs."""
        producer: list[int | None] = [None] * len(self.values)
        for i, op in enumerate(self.ops):
            for value in op.writes:
                producer[value] = i
        return tuple(producer)

    @cached_property
    def allocated(self) -> tuple[tuple[int, ...], ...]:
        """The storages that each op allocates; empty for views, in-place ops and updates of constants."""
        return tuple(_fresh_storages(self, op) for op in self.ops)

    @cached_property
    def by_name(self) -> Mapping[str, int]:
        """Op index by op name."""
        return {op.name: i for i, op in enumerate(self.ops)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the step computes: ops, wiring, shapes, dtypes, aliasing, bytes; costs are left out."""
        content = {
            "ops": [
                (o.name, o.kind, o.reads, o.writes, o.phase, o.pinned, o.auxiliary, o.outside, o.replay_bytes) for o in self.ops
            ],
            "values": [(v.storage, v.shape, v.dtype) for v in self.values],
            "storages": [(s.bytes, s.constant) for s in self.storages],
            "results": self.results,
        }
        return _digest(content)

    @cached_property
    def structure(self) -> str:
        """SHA-256 of ops, wiring and aliasing alone: equal for a step on inputs of other sizes that runs the same ops."""
        ops = [(o.name, o.reads, o.writes, o.phase, o.pinned, o.auxiliary, o.outside) for o in self.ops]
        return _digest((ops, [v.storage for v in self.values], [s.constant for s in self.storages], self.results))

    def dag(self) -> networkx.DiGraph:
        """The ops as nodes, with an edge from the producer of each value to every op that reads it."""
        dag = networkx.DiGraph()
        dag.add_nodes_from(range(len(self.ops)))
        for i, op in enumerate(self.ops):
            dag.add_edges_from((p, i) for value in op.reads if (p := self.producer[value]) is not None)
        return dag


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _fresh_storages(graph: Graph, op: Op) -> tuple[int, ...]:
    read = {graph.values[value].storage for value in op.reads}
    written = dict.fromkeys(graph.values[value].storage for value in op.writes)
    return tuple(s for s in written if s not in read and not graph.storages[s].constant)


def _whole_bytes(index: int, size: float) -> int:
    if not math.isfinite(size) or int(size) != size:
        raise GraphError(f"op {index} has size {size!r}: sizes are whole numbers of bytes")
    return int(size)


def _validate(graph: Graph) -> None:
    for i, storage in enumerate(graph.storages):
        if storage.bytes < 0:
            raise GraphError(f"storage {i} has {storage.bytes} bytes: a size cannot be negative")
    for name, size in graph.constants.items():
        if size < 0:
            raise GraphError(f"constant {name!r} has {size} bytes: a size cannot be negative")
    if graph.update < 0:
        raise GraphError(f"the optimizer's step takes {graph.update} bytes: a size cannot be negative")
    for value in graph.values:
        if not 0 <= value.storage < len(graph.storages):
            raise GraphError(f"value {value.name!r} lives in storage {value.storage}, which does not exist")
    for v in graph.results:
        if not 0 <= v < len(graph.values):
            raise GraphError(f"result {v} does not exist")
    names: set[str] = set()
    written: set[int] = set()
    allocator: dict[int, str] = {}
    for op in graph.ops:
        if op.name in names:
            raise GraphError(f"two ops are named {op.name!r}: schedules refer to ops by name, so names must differ")
        names.add(op.name)
        _validate_costs(op)
        _validate_wiring(graph, op, written)
        written.update(op.writes)
        for storage_id in _fresh_storages(graph, op):
            if storage_id in allocator:
                raise GraphError(
                    f"op {op.name!r} writes into the storage that {allocator[storage_id]!r} allocated "
                    "without reading from it: an alias must read what it aliases"
                )
            allocator[storage_id] = op.name


def _validate_costs(op: Op) -> None:
    if not (math.isfinite(op.seconds) and op.seconds >= 0):
        raise GraphError(f"op {op.name!r} costs {op.seconds!r} seconds: a cost is a finite number, zero or more")
    if min(op.workspace, op.flops, op.replay_bytes) < 0:
        raise GraphError(f"op {op.name!r} has a negative workspace, FLOP count or replay size")


def _validate_wiring(graph: Graph, op: Op, written: set[int]) -> None:
    for v in (*op.reads, *op.writes):
        if not 0 <= v < len(graph.values):
            raise GraphError(f"op {op.name!r} refers to value {v}, which does not exist")
    for v in op.reads:
        if v not in written and not graph.storages[graph.values[v].storage].constant:
            raise GraphError(f"op {op.name!r} reads {graph.values[v].name!r} before anything has computed it")
    for v in op.writes:
        if v in written:
            raise GraphError(f"{graph.values[v].name!r} is written by two ops: each value has one producer")
