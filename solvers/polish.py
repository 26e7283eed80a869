"""Drops the recomputations of a schedule that it does not need: those without which its peak stays within the budget.

A search that is cut short leaves memory unused while it recomputes. This pass tries each recomputation, the longest first, and
keeps the earlier result instead where there is room for it. What was recomputed only for it goes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.problem import Executions, Problem

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
    run = problem.simulate(nodes)
    if run.peak_bytes > budget:
        return list(nodes)
    executions = Executions(problem, nodes, run)
    left = executions.recomputations()
    while True:  # what was left out may make room for what was refused before
        for place in left:
            if deadline.expired:
                break
            executions.leave_out(place, budget)
        before, left = left, executions.recomputations()
        if len(left) == len(before) or deadline.expired:
            return executions.nodes
