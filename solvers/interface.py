"""The interface between a question (graph, budget, time limit) and the methods that answer it.

A solver is a class with one method: it gets a ``Task`` and returns an ``Answer``, a sequence of ops with an optional bound. It
need not check itself. ``solvers.solve`` simulates every answer and never returns a schedule over the budget.
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

Order = Literal["given", "any"]
"""Whether first executions keep the graph's order, but for auxiliary ops, or may move wherever the bits stay."""

# Classes of schedules that a bound may cover, widest first. A bound over a wider class is the stronger statement.
ANY_SCHEDULE = "any schedule"
ORDER_GIVEN = "first executions in the given order"
ORDER_GIVEN_FORWARD = "first executions in the given order, forward ops recomputed only"
# Added to the class where the graph allows copies to a pool: the bound does not cover schedules that have any, or it covers
# them as long as no link is faster than its channels say.
WITHOUT_COPIES, COPIES_AT_RATES = ", without copies", ", copies at the given rates"

# A schedule counts as optimal if a proven bound is within this fraction of its seconds.
OPTIMAL_TOLERANCE = 1e-6


class Reporter:
    """Hooks called while solving. They do nothing; override those of interest.

    They run in the thread that called ``solve``. An exception raised in one, ``KeyboardInterrupt`` included, ends the solve.
    """

    def started(self, solver: str, graph: Graph, budget: int) -> None:
        """A solver begins."""

    def improved(self, cost: float, peak: int) -> None:
        """The solver has a better schedule within the budget: seconds of the step, bytes at its peak."""

    def bound(self, value: float) -> None:
        """No schedule takes less than ``value`` seconds, under the assumption that the solution will name."""

    def finished(self, solution: Solution) -> None:
        """``solution`` is about to be returned."""


@dataclass(frozen=True)
class Conflict:
    """Storages that must be resident at once and exceed the budget; without any one of them the others would not.

    Attributes:
        op: name of the op that runs then; None at the end of the step.
        bytes: all that is needed then, constants and the op's workspace included.
        storages: as indices into ``Graph.storages``, the largest first; empty where constants and workspace exceed the budget.
        assumption: the class of schedules that cannot avoid it.
    """

    op: str | None
    bytes: int
    storages: tuple[int, ...]
    assumption: str


@dataclass(frozen=True)
class Solution:
    """An answer that the simulator has checked.

    Attributes:
        steps: op indices in the order of execution; empty if infeasible.
        cost: seconds of the step, recomputation included; inf if infeasible.
        peak_bytes: bytes at the peak of ``steps``; if infeasible, at the peak of ``minimum_steps``.
        bound: seconds; no schedule within the budget takes less, under ``assumption``. inf if provably none exists.
        gap: (cost - bound) / seconds of the step without recomputation; inf if infeasible.
        status: "optimal" (``bound`` equals ``cost`` to 1e-6, under ``assumption``), "feasible", or "infeasible" (the solver
            found none; ``bound`` is inf if provably none exists).
        seconds: wall time of solving.
        solver: name of the solver.
        minimum: the least peak in bytes among the schedules found.
        assumption: the class of schedules that ``bound`` covers.
        bottleneck: name of the op that runs when ``minimum`` is reached; None unless infeasible.
        note: remarks, for instance how a chain solver cut a graph that is no chain.
        minimum_steps: the schedule with peak ``minimum`` if infeasible; else empty.
        conflict: what proves that the budget is infeasible at one moment; None where nothing does.
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
    conflict: Conflict | None = None


@dataclass(frozen=True)
class Answer:
    """What a solver claims.

    Attributes:
        steps: op indices: the cheapest schedule within the budget or, if the solver found none, the one with the lowest peak.
        bound: seconds, safe against rounding: no schedule within the budget and in the class of ``assumption`` takes less. inf
            if provably none exists; None for no bound beyond the seconds of the step without recomputation.
        assumption: the class of schedules: a constant of this module or a description in the solver's own words.
        note: for ``Solution.note``.
        solver: the name of the solver that found ``steps``, if a solver asked others; else None.
    """

    steps: Sequence[int]
    bound: float | None = None
    assumption: str = ANY_SCHEDULE
    note: str = ""
    solver: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What a solver is asked.

    Attributes:
        graph: the training step.
        budget: bytes at the peak, ``graph.constant_bytes`` included.
        deadline: when to return the best answer so far. If it has expired already, return the cheapest answer to compute.
        reporter: receives progress.
        start: schedules known to run, to start from; may be empty.
        enough: seconds of the step, or None. The solver may stop once it knows whether a schedule takes at most that.
        order: whether first executions may move.
    """

    graph: Graph
    budget: int
    deadline: Deadline = field(default_factory=lambda: Deadline(math.inf))
    reporter: Reporter = field(default_factory=Reporter)
    start: tuple[tuple[int, ...], ...] = ()
    enough: float | None = None
    order: Order = "given"

    @cached_property
    def problem(self) -> Problem:
        """The reduced form of ``graph``."""
        return Problem.of(self.graph)

    def without_transfers(self) -> Task:
        """The task without the pools of its graph, and without the starts that copy."""
        count = len(self.graph.ops)
        start = tuple(steps for steps in self.start if all(i < count for i in steps))
        return replace(self, graph=self.graph.without_transfers, start=start)

    def derive(self, **changes: Any) -> Task:
        """The same graph with another budget, deadline, reporter, start or enough; shares ``problem``."""
        task = replace(self, **changes)
        task.__dict__["problem"] = self.problem
        return task


class Solver(abc.ABC):
    """A method that answers tasks. It is stateless: the same task gives the same answer, unless the deadline cuts it short.

    A file in ``methods/`` may import the solver's library at its top: if it is missing, the registry says what to install.

    Attributes:
        name: what users type.
        description: the method and its source, in one line.
        proves: what the bound says and under which assumption, in one line.
        source: the paper or other origin of the method.
        any_order: moves first executions where the task allows it. Other solvers keep the given order.
        copies: understands transfers. Other solvers get the graph without its pools.
        quick: finishes in seconds on large graphs, so that ``auto`` may run it in a turn of its own.
        anytime: improves its schedule until the time is over, so that the time limit, not only the task, decides the answer.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    proves: ClassVar[str] = "nothing"
    source: ClassVar[str] = "this project"
    any_order: ClassVar[bool] = False
    copies: ClassVar[bool] = False
    quick: ClassVar[bool] = False
    anytime: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(self, task: Task) -> Answer:
        """The cheapest schedule found within the task's budget, or the one with the lowest peak if none fits."""
