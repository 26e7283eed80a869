"""Drops the recomputations of a schedule that it does not need: those without which its peak stays within the budget.

A search that is cut short leaves memory unused while it recomputes. This pass tries each recomputation, the longest first, and
keeps the earlier result instead where there is room for it. What was recomputed only for it goes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from remat_planner.schedules import InvalidScheduleError, Simulation
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.problem import Problem

_SHARE = 0.05
"""Share of a task's time for the pass."""


class Polished(Solver):
    """Another solver, whose schedules are polished."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        for attribute in ("name", "description", "proves", "source", "any_order", "copies", "quick", "anytime"):
            setattr(self, attribute, getattr(solver, attribute))

    def solve(self, task: Task) -> Answer:
        """The other solver's answer without needless recomputations. Schedules with copies stay as they are."""
        answer = self._solver.solve(task.derive(deadline=task.deadline.part(1 - _SHARE)))
        if task.graph.pools or not answer.steps:
            return answer
        nodes = polished(task.problem, task.budget, task.problem.nodes_of(answer.steps), task.deadline)
        return replace(answer, steps=task.problem.expand(nodes))


def polished(problem: Problem, budget: int, nodes: Sequence[int], deadline: Deadline) -> list[int]:
    """``nodes`` without the recomputations that are not needed within ``budget`` bytes; as they are where they exceed it."""
    kept = list(nodes)
    best = problem.simulate(kept)
    if best.peak_bytes > budget:
        return kept
    while not deadline.expired:
        shorter = _without_unread(problem, _with_results_kept(problem, kept, budget - best.bytes))
        run = _simulated(problem, shorter)
        if run is None or run.peak_bytes > budget or run.seconds >= best.seconds:
            break
        kept, best = shorter, run
    return _one_by_one(problem, budget, kept, best, deadline)


def _with_results_kept(problem: Problem, nodes: Sequence[int], room: npt.NDArray[np.int64]) -> list[int]:
    """``nodes`` without the recomputations whose results fit into ``room`` (bytes at each place) since they were last read.

    What the left out ones no longer read is not counted, so more may fit than is found here.
    """
    last_use = [0] * problem.m
    latest: dict[int, int] = {}  # a node that ran, and its last place
    gaps = []
    for place, node in enumerate(nodes):
        for item in problem.reads[node]:
            last_use[item] = place
        written = problem.writes[node]
        if node in latest and all(problem.base[item] == item for item in written):
            gaps.append((place, [(last_use[item], int(problem.bytes[item])) for item in written]))
        latest[node] = place
        for item in written:
            last_use[item] = place
    left, dropped = room.copy(), set()
    for place, items in sorted(gaps, key=lambda gap: -problem.cost[nodes[gap[0]]]):
        begin = min((used for used, _ in items), default=place) + 1
        if sum(size for _, size in items) <= left[begin:place].min(initial=np.iinfo(np.int64).max):
            dropped.add(place)
            for used, size in items:
                left[used + 1 : place] -= size
    return [node for place, node in enumerate(nodes) if place not in dropped]


def _one_by_one(problem: Problem, budget: int, kept: list[int], best: Simulation, deadline: Deadline) -> list[int]:
    """``kept`` without each recomputation that a simulation without it shows not to be needed, the longest first."""
    refused: set[tuple[int, int]] = set()  # a node and which of its executions, counted from the end
    while not deadline.expired:
        again = [entry for entry in _recomputations(problem, kept) if entry[:2] not in refused]
        if not again:
            break
        node, left, place = max(again, key=lambda entry: problem.cost[entry[0]])
        shorter = _without_unread(problem, [*kept[:place], *kept[place + 1 :]])
        run = _simulated(problem, shorter)
        if run is not None and run.peak_bytes <= budget and run.seconds < best.seconds:
            kept, best = shorter, run
        else:
            refused.add((node, left))
    return kept


def _recomputations(problem: Problem, nodes: Sequence[int]) -> list[tuple[int, int, int]]:
    """For each recomputation: its node, how many executions of that node follow, and its place."""
    left = [0] * problem.n
    found = []
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        found.append((node, left[node], place))
        left[node] += 1
    return [(node, after, place) for node, after, place in found if after < left[node] - 1 and problem.cost[node] > 0]


def _without_unread(problem: Problem, nodes: Sequence[int]) -> list[int]:
    """``nodes`` without recomputations whose results nothing reads."""
    first: dict[int, int] = {}
    for place, node in enumerate(nodes):
        first.setdefault(node, place)
    needed: set[int] = set()
    kept = []
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        if first[node] != place and needed.isdisjoint(problem.writes[node]):
            continue
        kept.append(node)
        needed.difference_update(problem.writes[node])
        for item in problem.reads[node]:
            needed.update((item, int(problem.base[item])))
    return kept[::-1]


def _simulated(problem: Problem, nodes: Sequence[int]) -> Simulation | None:
    try:
        return problem.simulate(nodes)
    except InvalidScheduleError:
        return None
