"""The activations that the backward reads: their bytes, the modules that computed them, and what the schedule decided."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from remat_planner.planner.module_paths import merged_path, without_numbers
from remat_planner.schedules import Graph, Schedule, lifetimes

Decision = Literal["kept", "copied", "recomputed", "deferred"]


@dataclass(frozen=True)
class Activations:
    """Activations that differ in nothing but the numbers in their module's path.

    Attributes:
        bytes: of all of them together.
        count: how many they are.
        decision: "kept" (resident from the forward to the backward), "copied" (to a pool beside the device and back),
            "recomputed" (``times`` times each, copied or not) or "deferred" (computed once, in the backward, because no op of
            the forward reads it).
        times: executions of each beyond the first.
        module: path of the module that computed them, numbers merged ("h.0-11.mlp").
        kind: the operator.
        source: "file:line" of the model's code.
        shape: of each.
        dtype: of each.
    """

    bytes: int
    count: int
    decision: Decision
    times: int
    module: str
    kind: str
    source: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class _Key:
    """What the activations of one group have in common; ``module`` is their path without numbers."""

    bytes: int
    decision: Decision
    times: int
    module: str
    kind: str
    source: str
    shape: tuple[int, ...]
    dtype: str


def saved_activations(parts: Iterable[tuple[Schedule, Sequence[str]]]) -> list[Activations]:
    """Every activation that the backward reads, equal ones in one group, the largest group first.

    ``parts`` are schedules, each with the path of its module for every time that it runs: [""] for that of a whole model.
    """
    modules: defaultdict[_Key, list[str]] = defaultdict(list)
    for schedule, paths in parts:
        for module, key in _activations_of(schedule):
            for path in paths:
                full = ".".join(filter(None, (path, module)))
                modules[replace(key, module=without_numbers(full))].append(full)
    groups = [
        Activations(
            bytes=key.bytes * len(paths),
            count=len(paths),
            decision=key.decision,
            times=key.times,
            module=merged_path(paths),
            kind=key.kind,
            source=key.source,
            shape=key.shape,
            dtype=key.dtype,
        )
        for key, paths in modules.items()
    ]
    return sorted(groups, key=lambda group: -group.bytes)


def _activations_of(schedule: Schedule) -> Iterator[tuple[str, _Key]]:
    """The module of each activation in the graph of ``schedule``, and the rest of what is known of it."""
    graph = schedule.graph
    decision_of, executions = decisions(schedule), Counter(schedule.steps)
    for storage, i in _read_by_backward(graph):
        op = graph.ops[i]
        value = next(graph.values[v] for v in op.writes if graph.values[v].storage == storage)
        yield (
            op.module,
            _Key(
                bytes=graph.storages[storage].bytes,
                decision=decision_of[i],
                times=executions[i] - 1,
                module="",
                kind=op.kind,
                source=op.source,
                shape=value.shape,
                dtype=value.dtype,
            ),
        )


def decisions(schedule: Schedule) -> dict[int, Decision]:
    """What the schedule does with the results of each forward op, by op index."""
    graph, executions = schedule.graph, Counter(schedule.steps)
    before_backward = set(schedule.steps[: _first_backward(graph, schedule.steps)])
    stored = {graph.transfers[i - len(graph.ops)].storage for i in executions if i >= len(graph.ops)}

    def decision(i: int) -> Decision:
        if executions[i] > 1:
            return "recomputed"
        if stored.intersection(graph.allocated[i]):
            return "copied"
        return "kept" if i in before_backward else "deferred"

    return {i: decision(i) for i, op in enumerate(graph.ops) if op.phase == "forward"}


def _first_backward(graph: Graph, steps: Sequence[int]) -> int:
    """The step at which the backward begins; the number of steps where there is none."""
    return next((step for step, i in enumerate(steps) if graph.actions[i].phase == "backward"), len(steps))


def _read_by_backward(graph: Graph) -> list[tuple[int, int]]:
    """The storages that a forward op allocates and that, without recomputation, live into the backward; each with its op."""
    order = range(len(graph.ops))
    turn = _first_backward(graph, order)
    results = {graph.values[value].storage for value in graph.results}
    pieces = lifetimes(graph, order)
    return [
        (storage, birth)
        for storage, birth, death in zip(pieces.storage.tolist(), pieces.birth.tolist(), pieces.death.tolist(), strict=True)
        if death >= turn and graph.ops[birth].phase == "forward" and storage not in results and graph.storages[storage].bytes
    ]
