"""A slow and obvious simulator, for tests to compare with: objects for memory, times by their definition."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from remat_planner.schedules import Graph, Op, Transfer


@dataclass(eq=False)
class Piece:
    """A piece of memory that is alive while a step will still touch it.

    ``loaded_by`` is the step that loads it and ``source`` the copy that this reads, for an instance that a load allocates;
    ``stored_by`` the step of the store, for a copy.
    """

    size: int
    touched: set[int] = field(default_factory=set)
    loaded_by: int | None = None
    source: Piece | None = None
    stored_by: int = -1
    pool: str = "device"

    def alive(self, step: int) -> bool:
        return bool(self.touched) and min(self.touched) <= step <= max(self.touched)


def reference(graph: Graph, steps: list[int]) -> tuple[float, list[int]]:
    """Seconds of the step, and bytes on the device while each step runs."""
    run = SlowRun(graph, steps)
    return run.seconds, run.memory()


class SlowRun:
    """A run of ``steps``, which must be valid."""

    def __init__(self, graph: Graph, steps: list[int]) -> None:
        self.graph = graph
        self.steps = steps
        self.pieces: list[Piece] = []
        self.copies: list[Piece] = []
        self.needs: list[set[int]] = []  # for each step the transfers that it waits for
        self._spans: dict[int, tuple[float, float]] = {}
        self._bound: dict[int, Piece] = {}
        self._first: dict[int, Piece] = {}
        self._newest: dict[tuple[int, str], tuple[Piece, Piece]] = {}  # copy, and the instance that it was made from
        for step, i in enumerate(steps):
            self.needs.append(set())
            action = graph.actions[i]
            if isinstance(action, Op):
                self._run_op(step, action)
            else:
                self._run_transfer(step, action)
        for value in graph.results:
            if value in self._first:
                self._first[value].touched.add(len(steps) - 1)
        for piece in self.pieces:
            if piece.source is not None:
                piece.source.touched.add(min(step for step in piece.touched if self._on_compute_queue(step)))

    def _run_op(self, step: int, op: Op) -> None:
        read = {self._bound[v] for v in op.reads if v in self._bound}
        fresh: dict[int, Piece] = {}
        for v in op.writes:
            storage = self.graph.values[v].storage
            if self.graph.storages[storage].constant:
                continue
            base = next((self._bound[r] for r in op.reads if self.graph.values[r].storage == storage), None)
            if base is None:
                base = fresh.setdefault(storage, Piece(self.graph.storages[storage].bytes))
            fresh.setdefault(storage, base)
        for v in op.writes:
            if (storage := self.graph.values[v].storage) in fresh:
                self._bound[v] = fresh[storage]
                self._first.setdefault(v, fresh[storage])
        for piece in {*read, *fresh.values()}:
            piece.touched.add(step)
        self.pieces += [piece for piece in fresh.values() if piece.touched == {step}]
        self.needs[step] = {piece.loaded_by for piece in read if piece.loaded_by is not None}

    def _run_transfer(self, step: int, transfer: Transfer) -> None:
        key = transfer.storage, transfer.pool.name
        if transfer.kind == "store":
            instance = self._bound[transfer.values[0]]
            copy = Piece(transfer.pool.rounded(transfer.bytes), {step}, stored_by=step, pool=transfer.pool.name)
            self.copies.append(copy)
            self._newest[key] = copy, instance
            instance.touched.add(step)
            self.needs[step] = set() if instance.loaded_by is None else {instance.loaded_by}
        elif transfer.kind == "release":
            copy, instance = self._newest[key]
            copy.touched.add(step)
            instance.touched.add(step)
            self.needs[step] = {copy.stored_by}
            self._bound = {value: piece for value, piece in self._bound.items() if piece is not instance}
        else:
            copy, _ = self._newest[key]
            instance = Piece(transfer.bytes, {step}, loaded_by=step, source=copy)
            self.pieces.append(instance)
            self.needs[step] = {copy.stored_by}
            self._bound |= dict.fromkeys(transfer.values, instance)

    def memory(self) -> list[int]:
        """Bytes on the device while each step runs."""
        memory = []
        for t, i in enumerate(self.steps):
            live = sum(piece.size for piece in self.pieces if piece.alive(t))
            for j, op in enumerate(self.graph.ops):
                runs = [s for s, x in enumerate(self.steps) if x == j]
                if op.replay_bytes and len(runs) > 1 and runs[0] <= t <= runs[-1]:
                    live += op.replay_bytes
            memory.append(live + self.graph.actions[i].workspace + sum(self.graph.constants.values()))
        return memory

    def pool_memory(self, pool: str) -> list[int]:
        """Bytes of the copies in a pool while each step runs."""
        return [sum(c.size for c in self.copies if c.pool == pool and c.alive(t)) for t in range(len(self.steps))]

    def offsets(self, pool: str) -> list[int]:
        """The place of each copy in a pool: the lowest that is free when it is stored."""
        placed: list[tuple[int, Piece]] = []
        for copy in (c for c in self.copies if c.pool == pool):
            taken = {byte for start, c in placed if c.alive(copy.stored_by) for byte in range(start, start + c.size)}
            start = next(k for k in range(10**6) if taken.isdisjoint(range(k, k + copy.size)))
            placed.append((start, copy))
        return [start for start, _ in placed]

    @property
    def seconds(self) -> float:
        """When the compute queue is through."""
        return max((self.span(step)[1] for step in range(len(self.steps)) if self._on_compute_queue(step)), default=0.0)

    def span(self, step: int) -> tuple[float, float]:
        """When a step begins and ends."""
        if step not in self._spans:
            self._spans[step] = self._span(step)
        return self._spans[step]

    def _span(self, step: int) -> tuple[float, float]:
        action = self.graph.actions[self.steps[step]]
        earlier = [s for s in range(step) if self._queue(s) == self._queue(step) or self._on_compute_queue(s)]
        if self._on_compute_queue(step):
            earlier = [s for s in earlier if self._on_compute_queue(s)]
        begin = max((self.span(s)[1] for s in {*earlier, *self.needs[step]}), default=0.0)
        if not isinstance(action, Op):
            return begin, begin + action.seconds
        # The op's work, integrated over the spans in which the same copies run beside it.
        beside = [(*self.span(s), self._slowdown(s)) for s in range(step) if self._slowdown(s) > 1]
        points = sorted({begin, *(t for start, end, _ in beside for t in (start, end) if t > begin)})
        left, time = action.seconds, begin
        for following in (*points[1:], math.inf):
            factor = math.prod(slow for start, end, slow in beside if start <= time < end)
            if left * factor <= following - time:
                return begin, time + left * factor
            left -= (following - time) / factor
            time = following
        raise AssertionError

    def _slowdown(self, step: int) -> float:
        action = self.graph.actions[self.steps[step]]
        if isinstance(action, Op) or action.kind == "release":
            return 1.0
        return (action.pool.outgoing if action.kind == "store" else action.pool.incoming).slowdown

    def _queue(self, step: int) -> object:
        action = self.graph.actions[self.steps[step]]
        return "compute" if isinstance(action, Op) or action.kind == "release" else (action.pool.name, action.kind)

    def _on_compute_queue(self, step: int) -> bool:
        return self._queue(step) == "compute"
