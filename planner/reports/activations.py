"""The activations that the backward needs: how large they are, who made them, and what the schedule decided about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from remat_planner.schedules import Graph, Schedule, lifetimes

Decision = Literal["kept", "recomputed", "deferred"]


@dataclass(frozen=True)
class Activations:
    """Activations that are alike but for the number of their layer.

    Attributes:
        bytes: of all of them together.
        count: how many there are.
        decision: "kept" from the forward to the backward; "recomputed" ``times`` times each; "deferred": computed once, when
            the backward asks for it (what the forward itself has no use for).
        times: extra executions of each.
        module: path of the module that made them, layer numbers merged ("h.0-11.mlp").
        kind: the operator.
        source: "file:line" of the model's code.
        shape: of one, as the op made it.
        dtype: of one.
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


def saved_activations(schedule: Schedule) -> list[Activations]:
    """Every activation that the backward reads, alike ones merged, the largest together first."""
    graph = schedule.graph
    decided, runs = decisions(schedule), Counter(schedule.steps)
    modules: defaultdict[_Alike, list[str]] = defaultdict(list)
    for storage, i in _needed_by_backward(graph):
        op = graph.ops[i]
        value = next(graph.values[v] for v in op.writes if graph.values[v].storage == storage)
        alike = _Alike(
            bytes=graph.storages[storage].bytes,
            decision=decided[i],
            times=runs[i] - 1,
            pattern=re.sub(r"\d+", "#", op.module),
            kind=op.kind,
            source=op.source,
            shape=value.shape,
            dtype=value.dtype,
        )
        modules[alike].append(op.module)
    merged = [
        Activations(
            bytes=alike.bytes * len(paths),
            count=len(paths),
            decision=alike.decision,
            times=alike.times,
            module=_merged_path(paths),
            kind=alike.kind,
            source=alike.source,
            shape=alike.shape,
            dtype=alike.dtype,
        )
        for alike, paths in modules.items()
    ]
    return sorted(merged, key=lambda group: -group.bytes)


def decisions(schedule: Schedule) -> dict[int, Decision]:
    """What the schedule does about the results of each forward op, by op index."""
    graph, runs = schedule.graph, Counter(schedule.steps)
    turn = _first_backward(graph, schedule.steps)
    early = set(schedule.steps[:turn])
    return {
        i: "recomputed" if runs[i] > 1 else "kept" if i in early else "deferred"
        for i, op in enumerate(graph.ops)
        if op.phase == "forward"
    }


def _first_backward(graph: Graph, steps: Sequence[int]) -> int:
    """The step at which the backward begins; the number of steps where there is none."""
    return next((step for step, i in enumerate(steps) if graph.ops[i].phase == "backward"), len(steps))


@dataclass(frozen=True, slots=True)
class _Alike:
    """What activations have in common that are shown as one; the fields are those of ``Activations``."""

    bytes: int
    decision: Decision
    times: int
    pattern: str
    kind: str
    source: str
    shape: tuple[int, ...]
    dtype: str


def _needed_by_backward(graph: Graph) -> list[tuple[int, int]]:
    """Storages that a forward op allocates and that, without recomputation, live on into the backward; with their op."""
    order = range(len(graph.ops))
    turn = _first_backward(graph, order)
    lasting = {graph.values[value].storage for value in graph.results}
    pieces = lifetimes(graph, order)
    return [
        (storage, birth)
        for storage, birth, death in zip(pieces.storage.tolist(), pieces.birth.tolist(), pieces.death.tolist(), strict=True)
        if death >= turn and graph.ops[birth].phase == "forward" and storage not in lasting and graph.storages[storage].bytes
    ]


def _merged_path(modules: Iterable[str]) -> str:
    """One path for several that differ in numbers only: "h.0.mlp" and "h.1.mlp" give "h.0-1.mlp"."""
    columns = zip(*(re.split(r"(\d+)", module) for module in modules), strict=True)
    return "".join(column[0] if n % 2 == 0 else _ranges(map(int, column)) for n, column in enumerate(columns))


def _ranges(numbers: Iterable[int]) -> str:
    """ "0-3,7" for 0, 1, 2, 3, 7."""
    runs = groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
