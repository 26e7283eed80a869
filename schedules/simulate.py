"""The one judge of time and peak memory: solvers, reports and tests all take their figures from here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules.errors import InvalidScheduleError
from remat_planner.schedules.graph import Graph, Op


@dataclass(frozen=True, slots=True)
class Simulation:
    """Seconds and bytes of a sequence of op executions.

    Attributes:
        seconds: sum of the op times.
        peak_bytes: maximum of ``bytes`` and of the optimizer's step that follows (``Graph.update_peak``).
        bytes: int64 array of shape (steps,): allocated bytes while each step runs, constants and workspace included.
    """

    seconds: float
    peak_bytes: int
    bytes: np.ndarray

    @property
    def peak_step(self) -> int:
        """The first step at which ``bytes`` is highest."""
        return int(np.argmax(self.bytes)) if len(self.bytes) else 0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Every allocation of a sequence of steps, in order; all arrays are int64 of shape (allocations,).

    Attributes:
        storage: index into ``Graph.storages``; -1 for the random state that an op holds between its executions.
        bytes: size.
        birth: the step that allocates it.
        death: the last step that needs it.
    """

    storage: np.ndarray
    bytes: np.ndarray
    birth: np.ndarray
    death: np.ndarray


def simulate(graph: Graph, steps: Sequence[int]) -> Simulation:
    """Seconds and bytes of executing ``steps`` (op indices).

    Raises:
        InvalidScheduleError: an op reads what has not been computed, a pinned op runs twice, an op never runs.
    """
    pieces = lifetimes(graph, steps)
    workspace = np.array([graph.ops[i].workspace for i in steps], dtype=np.int64)
    live = live_bytes(pieces.birth, pieces.death, pieces.bytes, len(steps)) + workspace + graph.constant_bytes
    return Simulation(
        seconds=math.fsum(graph.ops[i].seconds for i in steps),
        peak_bytes=max(int(live.max(initial=0)), graph.update_peak),
        bytes=live,
    )


def lifetimes(graph: Graph, steps: Sequence[int]) -> Lifetimes:
    """When each allocation is made and released as ``steps`` (op indices) execute.

    Each execution of an op allocates new instances of the storages it writes. A read binds to the newest instance of the value.
    An instance lives from the step that allocates it to the last step that reads any value on it, both included; the first
    instance of a result lives to the end. An op that runs more than once holds its random state from first to last execution.

    Raises:
        InvalidScheduleError: an op reads what has not been computed, a pinned op runs twice, an op never runs.
    """
    storage_of = [value.storage for value in graph.values]
    # The storage instance of each value's newest computation: one of these two, or an index into ``pieces``.
    is_constant, not_computed = -1, -2
    instance_of = [is_constant if graph.storages[s].constant else not_computed for s in storage_of]
    results = set(graph.results)
    pieces = _Pieces()
    result_instances: list[int] = []
    first_run = [-1] * len(graph.ops)
    last_run = [-1] * len(graph.ops)
    for step, i in enumerate(steps):
        op = _checked_op(graph, step, i, first_run)
        if first_run[i] < 0:
            first_run[i] = step
        last_run[i] = step
        touched: dict[int, int] = {}  # storage: the instance of it that this execution reads or allocates
        for value in op.reads:
            instance = instance_of[value]
            if instance == not_computed:
                raise InvalidScheduleError(
                    f"step {step} runs {op.name!r}, which reads {graph.values[value].name!r}: not computed by then",
                    step=step,
                    op=op.name,
                )
            if instance != is_constant:
                pieces.death[instance] = step
                touched.setdefault(storage_of[value], instance)
        for value in op.writes:
            if instance_of[value] == is_constant:
                continue
            storage = storage_of[value]
            if storage not in touched:
                touched[storage] = pieces.add(storage, graph.storages[storage].bytes, step, step)
            if value in results and instance_of[value] == not_computed:
                result_instances.append(touched[storage])
            instance_of[value] = touched[storage]
    for i, step in enumerate(first_run):
        if step < 0:
            raise InvalidScheduleError(f"{graph.ops[i].name!r} never runs", step=None, op=graph.ops[i].name)
    for instance in result_instances:
        pieces.death[instance] = len(steps) - 1
    for i, op in enumerate(graph.ops):
        if op.replay_bytes and last_run[i] > first_run[i]:
            pieces.add(-1, op.replay_bytes, first_run[i], last_run[i])
    return pieces.lifetimes()


def live_bytes(birth: np.ndarray, death: np.ndarray, sizes: np.ndarray, steps: int) -> np.ndarray:
    """int64 array of shape (steps,): bytes allocated while each step runs.

    Piece k has ``sizes[k]`` bytes from step ``birth[k]`` to step ``death[k]``, both included; the three arrays are int64.
    """
    change = np.zeros(steps + 1, dtype=np.int64)
    np.add.at(change, birth, sizes)
    np.subtract.at(change, death + 1, sizes)
    return np.cumsum(change[:-1])


class _Pieces:
    """The columns of ``Lifetimes`` as lists that grow."""

    def __init__(self) -> None:
        self._storage: list[int] = []
        self._bytes: list[int] = []
        self._birth: list[int] = []
        self.death: list[int] = []

    def add(self, storage: int, size: int, birth: int, death: int) -> int:
        """Append a piece and return its index."""
        self._storage.append(storage)
        self._bytes.append(size)
        self._birth.append(birth)
        self.death.append(death)
        return len(self.death) - 1

    def lifetimes(self) -> Lifetimes:
        columns = (self._storage, self._bytes, self._birth, self.death)
        return Lifetimes(*(np.array(column, dtype=np.int64) for column in columns))


def _checked_op(graph: Graph, step: int, i: int, first_run: Sequence[int]) -> Op:
    if not 0 <= i < len(graph.ops):
        raise InvalidScheduleError(f"step {step} runs op {i}, but the graph has {len(graph.ops)} ops", step=step, op=str(i))
    op = graph.ops[i]
    if first_run[i] >= 0 and op.pinned is not None:
        raise InvalidScheduleError(
            f"step {step} runs {op.name!r} again, which must run once: {op.pinned}", step=step, op=op.name
        )
    return op
