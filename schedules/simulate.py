"""The one judge of time and peak memory: every solver's answer, every report and every test goes through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules.errors import InvalidScheduleError
from remat_planner.schedules.graph import Graph, Op


@dataclass(frozen=True, slots=True)
class Simulation:
    """What running a sequence of ops costs.

    Attributes:
        seconds: sum of the op times.
        peak_bytes: highest of ``bytes``, or what the optimizer's step after it takes (``Graph.update_peak``) if that is more.
        bytes: int64 array of shape (steps,): live bytes while each step runs, constants and workspace included.
    """

    seconds: float
    peak_bytes: int
    bytes: np.ndarray

    @property
    def peak_step(self) -> int:
        """The first step at which the highest of ``bytes`` is reached."""
        return int(np.argmax(self.bytes)) if len(self.bytes) else 0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Every piece of memory of a run, in the order of allocation; all arrays are int64 of shape (pieces,).

    Attributes:
        storage: index into ``Graph.storages``; -1 for the random state that an op holds between its runs.
        bytes: size.
        birth: the step that allocates it.
        death: the last step that needs it.
    """

    storage: np.ndarray
    bytes: np.ndarray
    birth: np.ndarray
    death: np.ndarray


def simulate(graph: Graph, steps: Sequence[int]) -> Simulation:
    """Run ``steps`` (op indices) on paper.

    Raises:
        InvalidScheduleError: an op reads what has not been computed, a pinned op runs twice, an op never runs.
    """
    pieces = lifetimes(graph, steps)
    change = np.zeros(len(steps) + 1, dtype=np.int64)
    np.add.at(change, pieces.birth, pieces.bytes)
    np.subtract.at(change, pieces.death + 1, pieces.bytes)
    workspace = np.array([graph.ops[i].workspace for i in steps], dtype=np.int64)
    live = np.cumsum(change[:-1]) + workspace + graph.constant_bytes
    return Simulation(
        seconds=math.fsum(graph.ops[i].seconds for i in steps),
        peak_bytes=max(int(live.max(initial=0)), graph.update_peak),
        bytes=live,
    )


def lifetimes(graph: Graph, steps: Sequence[int]) -> Lifetimes:
    """What is in memory from when to when, as ``steps`` (op indices) run.

    Each execution of an op makes a new instance of what it writes. A read binds to the newest instance of the value; a
    storage instance lives from the step that allocates it to the last step that reads any value on it, both included.
    The first instance of a result lives to the end. An op that runs more than once holds its random state in between.

    Raises:
        InvalidScheduleError: an op reads what has not been computed, a pinned op runs twice, an op never runs.
    """
    n = len(graph.ops)
    storage_of = [value.storage for value in graph.values]
    # The storage instance that the newest computation of each value lives in: one of these two, or an index into birth.
    is_constant, not_computed = -1, -2
    instance_of = [is_constant if graph.storages[s].constant else not_computed for s in storage_of]
    results = set(graph.results)
    stored: list[int] = []
    birth: list[int] = []
    death: list[int] = []
    size: list[int] = []
    lasting: list[int] = []
    first_run = [-1] * n
    last_run = [-1] * n
    for step, i in enumerate(steps):
        op = _checked_op(graph, step, i, ran_before=0 <= i < n and first_run[i] >= 0)
        if first_run[i] < 0:
            first_run[i] = step
        last_run[i] = step
        alias: dict[int, int] = {}
        for value in op.reads:
            instance = instance_of[value]
            if instance == not_computed:
                raise InvalidScheduleError(
                    f"step {step} runs {op.name!r}, which reads {graph.values[value].name!r}: not computed by then",
                    step=step,
                    op=op.name,
                )
            if instance != is_constant:
                death[instance] = step
                alias.setdefault(storage_of[value], instance)
        for value in op.writes:
            if instance_of[value] == is_constant:
                continue
            storage = storage_of[value]
            instance = alias.get(storage, not_computed)
            if instance == not_computed:
                instance = alias[storage] = len(birth)
                stored.append(storage)
                birth.append(step)
                death.append(step)
                size.append(graph.storages[storage].bytes)
            if value in results and instance_of[value] == not_computed:
                lasting.append(instance)
            instance_of[value] = instance
    for i, step in enumerate(first_run):
        if step < 0:
            raise InvalidScheduleError(f"{graph.ops[i].name!r} never runs", step=None, op=graph.ops[i].name)
    for instance in lasting:
        death[instance] = len(steps) - 1
    for i, op in enumerate(graph.ops):
        if op.replay_bytes and last_run[i] > first_run[i]:
            stored.append(-1)
            birth.append(first_run[i])
            death.append(last_run[i])
            size.append(op.replay_bytes)
    return Lifetimes(*(np.array(column, dtype=np.int64) for column in (stored, size, birth, death)))


def _checked_op(graph: Graph, step: int, i: int, *, ran_before: bool) -> Op:
    if not 0 <= i < len(graph.ops):
        raise InvalidScheduleError(f"step {step} runs op {i}, but the graph has {len(graph.ops)} ops", step=step, op=str(i))
    op = graph.ops[i]
    if ran_before and op.pinned is not None:
        raise InvalidScheduleError(
            f"step {step} runs {op.name!r} again, which must run once: {op.pinned}", step=step, op=op.name
        )
    return op
