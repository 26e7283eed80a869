"""What each module and each operator takes at a schedule's peak, and what its recomputation costs and saves there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from remat_planner.planner.module_paths import merged_path, without_numbers
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.peak_memory import peak_is_update
from remat_planner.schedules import Graph, InvalidScheduleError, Schedule, Simulation, lifetimes, simulate


@dataclass(frozen=True)
class Breakdown:
    """Some ops of a step: those of modules that differ in nothing but numbers, or those of one operator.

    Attributes:
        name: path of the modules, numbers merged ("h.0-11.mlp"; "" for ops of no module), or the operator.
        peak_bytes: what these ops hold at the schedule's peak: results, and the workspace of the op that runs.
        baseline_peak_bytes: the same at the peak of the step without recomputation.
        recomputations: executions beyond the first of each op.
        seconds: of those executions.
        saved_bytes: how much higher the schedule's peak would be if these ops ran once and all else stayed as it is. It is 0
            where another moment of the step would be just as high. None where they must run again, because a copy that a
            transfer took has replaced their first result.
    """

    name: str
    peak_bytes: int
    baseline_peak_bytes: int
    recomputations: int
    seconds: float
    saved_bytes: int | None


def by_module(schedule: Schedule) -> list[Breakdown]:
    """A breakdown of all ops by module, the largest at the peak first."""
    graph = schedule.graph
    ops: defaultdict[str, list[int]] = defaultdict(list)
    for i, op in enumerate(graph.ops):
        ops[without_numbers(op.module)].append(i)
    return breakdowns(schedule, [(merged_path(graph.ops[i].module for i in group), group) for group in ops.values()])


def by_operator(schedule: Schedule) -> list[Breakdown]:
    """A breakdown of all ops by operator, the largest at the peak first."""
    ops: defaultdict[str, list[int]] = defaultdict(list)
    for i, op in enumerate(schedule.graph.ops):
        ops[short_operator(op.kind)].append(i)
    return breakdowns(schedule, ops.items())


def breakdowns(schedule: Schedule, groups: Iterable[tuple[str, list[int]]]) -> list[Breakdown]:
    """The breakdown of each of ``groups`` (name and op indices) that takes or recomputes something."""
    graph = schedule.graph
    planned = _bytes_at_peak(graph, schedule.steps, schedule.simulation)
    unplanned = _bytes_at_peak(graph.eager, range(len(graph.ops)), schedule.baseline)
    executions = Counter(schedule.steps)
    rows = []
    for name, group in groups:
        recomputed = [i for i in group if executions[i] > 1]
        row = Breakdown(
            name=name,
            peak_bytes=sum(planned[i] for i in group),
            baseline_peak_bytes=sum(unplanned[i] for i in group),
            recomputations=sum(executions[i] - 1 for i in recomputed),
            seconds=sum((executions[i] - 1) * graph.ops[i].seconds for i in recomputed),
            saved_bytes=_saved_bytes(schedule, set(recomputed)),
        )
        if row.peak_bytes or row.baseline_peak_bytes or row.recomputations:
            rows.append(row)
    return sorted(rows, key=lambda row: (-row.peak_bytes, -row.baseline_peak_bytes, row.name))


def _bytes_at_peak(graph: Graph, steps: Iterable[int], simulation: Simulation) -> Counter[int]:
    """Bytes that each op, by its index, holds at the peak of ``steps``; constants and random state belong to none."""
    steps = tuple(steps)
    bytes_of: Counter[int] = Counter()
    op_of = {storage: i for i, allocated in enumerate(graph.allocated) for storage in allocated}
    if peak_is_update(simulation):
        for storage in {graph.values[value].storage for value in graph.results} & op_of.keys():
            bytes_of[op_of[storage]] += graph.storages[storage].bytes
    elif steps:
        peak, pieces = simulation.peak_step, lifetimes(graph, steps)
        for piece in np.flatnonzero((pieces.birth <= peak) & (peak <= pieces.death) & (pieces.storage >= 0)):
            bytes_of[op_of[int(pieces.storage[piece])]] += int(pieces.bytes[piece])
        bytes_of[steps[peak]] += graph.actions[steps[peak]].workspace
    return bytes_of


def _saved_bytes(schedule: Schedule, recomputed: Collection[int]) -> int | None:
    """How much the peak rises if the ops ``recomputed`` run once; None where the other steps then cannot run."""
    if not recomputed:
        return 0
    seen: set[int] = set()
    steps = []
    for i in schedule.steps:
        if i not in recomputed or i not in seen:
            steps.append(i)
        seen.add(i)
    try:
        return max(0, simulate(schedule.graph, steps).peak_bytes - schedule.peak_bytes)
    except InvalidScheduleError:
        return None
