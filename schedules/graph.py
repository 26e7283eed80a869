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
from dataclasses import dataclass, field, replace
from functools import cached_property

import networkx

from remat_planner.schedules.elements import Op, Storage, Value
from remat_planner.schedules.errors import GraphError
from remat_planner.schedules.transfers import CopySteps, Pool, PoolName, Transfer, TransferKind


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
        pools: memory beside the device that storages may be copied to; see ``schedules.transfers``.
        copied: the storages that may be copied, as indices; each to each of ``pools``.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    storages: tuple[Storage, ...]
    results: tuple[int, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)
    update: int = 0
    pools: tuple[Pool, ...] = ()
    copied: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _validate(self)
        _validate_transfers(self)

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
        """Seconds of the step as the framework runs it, without any recomputation."""
        return math.fsum(op.seconds - op.extra_seconds for op in self.ops)

    @cached_property
    def eager(self) -> Graph:
        """The same step as the framework runs it without a plan (``Op.eager_workspace`` and the like); nothing is copied."""
        graph = _in_eager_memory(self.without_transfers)
        if not any(op.eager_workspace or op.eager_reads or op.extra_seconds for op in graph.ops):
            return graph
        ops = (
            replace(
                op,
                workspace=op.workspace + op.eager_workspace,
                eager_workspace=0,
                reads=tuple(dict.fromkeys((*op.reads, *op.eager_reads))),
                eager_reads=(),
                seconds=op.seconds - op.extra_seconds,
                extra_seconds=0.0,
            )
            for op in graph.ops
        )
        return replace(graph, ops=tuple(ops))

    @cached_property
    def inexact(self) -> tuple[str, ...]:
        """How ops compute their results otherwise than the framework; empty where all bits are the framework's."""
        return tuple(dict.fromkeys(op.inexact for op in self.ops if op.inexact))

    @cached_property
    def producer(self) -> tuple[int | None, ...]:
        """The op that writes each value; None for parameters, buffers and inputs."""
        producer: list[int | None] = [None] * len(self.values)
        for i, op in enumerate(self.ops):
            for value in op.writes:
                producer[value] = i
        return tuple(producer)

    @cached_property
    def values_on(self) -> tuple[tuple[int, ...], ...]:
        """The values that live in each storage."""
        values: list[list[int]] = [[] for _ in self.storages]
        for i, value in enumerate(self.values):
            values[value.storage].append(i)
        return tuple(map(tuple, values))

    @cached_property
    def allocated(self) -> tuple[tuple[int, ...], ...]:
        """The storages that each op allocates; empty for views, in-place ops and updates of constants."""
        return tuple(_fresh_storages(self, op) for op in self.ops)

    @cached_property
    def by_name(self) -> Mapping[str, int]:
        """Step index by the name of an op or a transfer."""
        return {action.name: i for i, action in enumerate(self.actions)}

    @cached_property
    def free_views(self) -> dict[int, int]:
        """The ops that cost nothing, allocate nothing and only alias one storage, with that storage."""
        return {i: storage for i, op in enumerate(self.ops) if (storage := _aliased(self, op)) is not None}

    @cached_property
    def copyable(self) -> tuple[int, ...]:
        """The storages that can be copied to a pool.

        These are all that an op allocates, but for results, which stay on the device; those of the caller's loss, which runs in
        the caller's code; and those that an op overwrites in place.
        """
        results = {self.values[value].storage for value in self.results}
        overwritten = {
            self.values[value].storage
            for i, op in enumerate(self.ops)
            if i not in self.free_views
            for value in op.writes
            if self.values[value].storage not in self.allocated[i]
        }
        return tuple(
            s
            for op, allocated in zip(self.ops, self.allocated, strict=True)
            if not op.outside
            for s in allocated
            if self.storages[s].bytes and s not in results and s not in overwritten
        )

    def with_transfers(self, pools: Iterable[Pool], storages: Iterable[int] | None = None) -> Graph:
        """The same step, whose schedules may copy ``storages`` (all that are ``copyable`` if None) to ``pools``.

        Ops keep their indices, so schedules of this graph are schedules of that one; the fingerprint stays.

        Raises:
            GraphError: a storage cannot be copied, or two pools have the same name.
        """
        return replace(self, pools=tuple(pools), copied=self.copyable if storages is None else tuple(storages))

    @cached_property
    def without_transfers(self) -> Graph:
        """The same step without pools."""
        return replace(self, pools=(), copied=()) if self.pools or self.copied else self

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """The transfers; step ``len(ops) + k`` is ``transfers[k]``."""
        kinds: tuple[TransferKind, ...] = ("store", "release", "load")  # the order of ``CopySteps``
        allocated_by = {s: i for i, allocated in enumerate(self.allocated) for s in allocated}
        transfers = []
        for pool in self.pools:
            for s in self.copied:
                op, allocated = self.ops[allocated_by[s]], self.allocated[allocated_by[s]]
                what = op.name if len(allocated) == 1 else f"{op.name}[{allocated.index(s)}]"
                values = tuple(value for value in op.writes if self.values[value].storage == s)
                transfers += [Transfer.of(kind, what, s, values, self.storages[s].bytes, pool) for kind in kinds]
        return tuple(transfers)

    @cached_property
    def actions(self) -> tuple[Op | Transfer, ...]:
        """What the steps of a schedule index: the ops, and after them the transfers."""
        return (*self.ops, *self.transfers) if self.pools else self.ops

    def copy_steps(self, storage: int, pool: PoolName = "host") -> CopySteps:
        """The steps that copy ``storage`` to ``pool`` and back.

        Raises:
            KeyError: the graph has no such transfers.
        """
        return self._copy_steps[storage, pool]

    @cached_property
    def _copy_steps(self) -> Mapping[tuple[int, PoolName], CopySteps]:
        return {
            (t.storage, t.pool.name): CopySteps(i, i + 1, i + 2)
            for i, t in enumerate(self.transfers, len(self.ops))
            if t.kind == "store"
        }

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


def _aliased(graph: Graph, op: Op) -> int | None:
    """The storage that ``op`` aliases if it is a free view, else None."""
    if op.seconds or op.workspace or op.replay_bytes or op.pinned is not None or op.outside or not op.writes:
        return None
    written = {graph.values[v].storage for v in op.writes}
    read = {v for v in op.reads if not graph.storages[graph.values[v].storage].constant} or set(op.reads)
    return written.pop() if len(read) == 1 and written == {graph.values[v].storage for v in read} else None


def _in_eager_memory(graph: Graph) -> Graph:
    """``graph`` in which each value that has an ``eager_base`` lies there, with all that views it."""
    allocated_by = {s: i for i, allocated in enumerate(graph.allocated) for s in allocated}
    moved: dict[int, int] = {}  # storage -> that of the base
    ops = list(graph.ops)
    for v, value in enumerate(graph.values):
        i = allocated_by.get(value.storage)
        if value.eager_base is None or i is None or graph.ops[i].writes != (v,):
            continue
        base = graph.values[value.eager_base].storage
        if base != value.storage and base in allocated_by:
            moved[value.storage] = moved.get(base, base)
            ops[i] = replace(ops[i], reads=(*ops[i].reads, value.eager_base))  # it is written over, used or not
    if not moved:
        return graph
    values = (replace(value, storage=moved.get(value.storage, value.storage), eager_base=None) for value in graph.values)
    return replace(graph, ops=tuple(ops), values=tuple(values))


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
    if not 0 <= op.extra_seconds <= op.seconds:
        raise GraphError(f"op {op.name!r} costs {op.seconds!r} seconds, of which {op.extra_seconds!r} cannot be extra")
    if min(op.workspace, op.eager_workspace, op.flops, op.replay_bytes) < 0:
        raise GraphError(f"op {op.name!r} has a negative workspace, FLOP count or replay size")


def _validate_wiring(graph: Graph, op: Op, written: set[int]) -> None:
    for v in (*op.reads, *op.writes, *op.eager_reads):
        if not 0 <= v < len(graph.values):
            raise GraphError(f"op {op.name!r} refers to value {v}, which does not exist")
    for v in (*op.reads, *op.eager_reads):
        if v not in written and not graph.storages[graph.values[v].storage].constant:
            raise GraphError(f"op {op.name!r} reads {graph.values[v].name!r} before anything has computed it")
    for v in op.writes:
        if v in written:
            raise GraphError(f"{graph.values[v].name!r} is written by two ops: each value has one producer")


def _validate_transfers(graph: Graph) -> None:
    names = [pool.name for pool in graph.pools]
    if len(set(names)) < len(names):
        raise GraphError(f"two pools are named {max(names, key=names.count)!r}: give each at most once")
    if not graph.copied:
        return
    copyable = set(graph.copyable)
    for s in graph.copied:
        if s not in copyable:
            raise GraphError(
                f"storage {s} cannot be copied: only a storage that an op of the step allocates, that is no result, not the "
                "caller's loss's, and that no op overwrites in place (Graph.copyable)"
            )
    if len(set(graph.copied)) < len(graph.copied):
        raise GraphError("a storage is named twice among those that may be copied")
    if len(graph.by_name) < len(graph.actions):
        raise GraphError("an op has the name of a transfer: schedules refer to steps by name, so names must differ")
