"""The interface between the question (a graph, a budget, a time limit) and the methods that answer it.

A solver is a small class with one method. It gets a ``Task`` and returns an ``Answer``: a sequence of ops, and what it claims
to have proven. It need not judge itself: whether a sequence runs, what it costs and how much memory it takes is measured in one
place, ``solvers.solving.solve``, for all of them, and a sequence over the budget is never passed on as a plan.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from remat_planner.schedules import Graph
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

Status = Literal["optimal", "feasible", "infeasible"]

# Assumptions under which bounds hold, widest class of schedules first: a bound over a wider class is the stronger statement.
ANY_SCHEDULE = "any schedule"
ORDER_GIVEN = "first executions in the given order"
ORDER_GIVEN_FORWARD = "first executions in the given order, forward ops recomputed only"

# A schedule counts as optimal where a proven bound is within this fraction of its own time.
OPTIMAL_TOLERANCE = 1e-6


class Reporter:
    """Hooks that are called while solving; they do nothing here. Override what is of interest.

    They run in the solver's thread. ``KeyboardInterrupt`` and every other exception raised in one ends the solve.
    """

    def started(self, solver: str, graph: Graph, budget: int) -> None:
        """A solver begins. Under ``auto`` several do."""

    def improved(self, cost: float, peak: int) -> None:
        """A better schedule within the budget was found: seconds of the step, bytes at its peak."""

    def bound(self, value: float) -> None:
        """No schedule takes less than ``value`` seconds, under the assumption that the solution will name."""

    def finished(self, solution: Solution) -> None:
        """The answer, as it is about to be returned."""


@dataclass(frozen=True)
class Solution:
    """An answer that has been checked by the simulator.

    Attributes:
        steps: op indices in the order of execution; empty where infeasible.
        cost: seconds of the step, recomputation included; inf where infeasible.
        peak_bytes: bytes at the peak of ``steps``; where infeasible, of the schedule that ``minimum`` speaks of.
        bound: seconds; no schedule within the budget takes less, under ``assumption``. inf: there is none at all.
        gap: (cost - bound) / seconds of the step without recomputation; inf where infeasible.
        status: "optimal" (``bound`` is ``cost`` to 1e-6, under ``assumption``), "feasible", or "infeasible" (none was found;
            it is proven that there is none where ``bound`` is inf).
        seconds: wall time of solving.
        solver: name of the solver.
        minimum: the least bytes for which a schedule was found.
        assumption: the class of schedules that ``bound`` speaks of.
        bottleneck: name of the op at whose run ``minimum`` is reached; None unless infeasible.
        note: what else there is to know, for instance how a chain solver cut a graph that is no chain.
        minimum_steps: where infeasible, the schedule that ``minimum`` speaks of; empty otherwise.
    """

    steps: tuple[int, ...]
    cost: float
    peak_bytes: int
    bound: float
    gap: float
    status: Status
    seconds: float
    solver: str
    minimum: int
    assumption: str = ANY_SCHEDULE
    bottleneck: str | None = None
    note: str = ""
    minimum_steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a solver claims.

    Attributes:
        steps: op indices: the cheapest schedule within the budget or, where none was found, the one with the lowest peak.
        bound: seconds, safe against rounding; no schedule in the class of ``assumption`` within the budget takes less. inf
            where there is provably none. None: nothing beyond what holds for every schedule.
        assumption: the class of schedules, one of the constants of this module or words of the solver's own.
        note: for ``Solution.note``.
        solver: the solver that found it, where the one asked only chose among others; else None.
    """

    steps: Sequence[int]
    bound: float | None = None
    assumption: str = ANY_SCHEDULE
    note: str = ""
    solver: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a solver.

    Attributes:
        graph: the training step.
        budget: bytes at the peak, ``graph.constant_bytes`` included.
        deadline: when to stop. A solver returns its best answer by then; once expired, it returns the cheapest it can make.
        reporter: whom to tell about progress.
        start: schedules that are known to run, to start from; may be empty.
        enough: seconds of the step. A solver may stop once it is known whether a schedule takes at most that.
    """

    graph: Graph
    budget: int
    deadline: Deadline = field(default_factory=lambda: Deadline(math.inf))
    reporter: Reporter = field(default_factory=Reporter)
    start: tuple[tuple[int, ...], ...] = ()
    enough: float | None = None

    @cached_property
    def problem(self) -> Problem:
        """The reduced form of ``graph``, made once."""
        return Problem.of(self.graph)

    def derive(self, **changes: Any) -> Task:
        """The same graph under another budget, deadline, reporter or start; the reduced form is shared."""
        task = replace(self, **changes)
        task.__dict__["problem"] = self.problem
        return task


class Solver(abc.ABC):
    """A method. Stateless: everything about a question is in its task, and the same task gives the same answer.

    A solver's file may import the library it needs at its top: where that is missing, the registry says what to install.

    Attributes:
        name: what users type.
        description: one line: the method and its source.
        proves: one line: what its bound says, and under what assumption.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    proves: ClassVar[str] = "nothing"

    @abc.abstractmethod
    def solve(self, task: Task) -> Answer:
        """Find the cheapest schedule within the task's budget, or the one with the lowest peak where none fits."""
