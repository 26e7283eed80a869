"""The integer program of lazy moments: memory is watched at given moments of the step, and only there.

At a moment, every item that later nodes need is either held or recomputed after it, together with the inputs that this takes in
turn: a closure with one knapsack row per moment. The program's optimum bounds every schedule that keeps the given order of
first runs, whatever it recomputes and however often; auxiliary nodes may come late. So does its linear relaxation, whose bound
does not rest on the accuracy of HiGHS: multipliers are only a hint, weak duality does the rest. (If only forward nodes could be
recomputed, the bound would be higher, and wrong where recomputing a gradient pays.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from remat_planner.solvers.lazy_moments.availability_rows import add_availability_rows
from remat_planner.solvers.lazy_moments.closure_rows import add_closure_rows
from remat_planner.solvers.lazy_moments.columns import Columns
from remat_planner.solvers.lazy_moments.copy_rows import add_copy_rows
from remat_planner.solvers.lazy_moments.decision import Decision
from remat_planner.solvers.lazy_moments.links import Links
from remat_planner.solvers.lazy_moments.memory_rows import add_inside_rows, add_memory_rows
from remat_planner.solvers.lazy_moments.options import DEFAULT_PROGRAM, ProgramOptions
from remat_planner.solvers.milp import Outcome, Watch
from remat_planner.solvers.problem import Problem


def closure_bound(master: MasterProgram, *, seconds: float = 10.0) -> float:
    """Seconds that no schedule within the program's budget beats; inf where HiGHS finds the relaxation infeasible.

    Args:
        master: the program, without margins.
        seconds: time limit; once it is reached, the bound is the time without recomputation.
    """
    return master.problem.seconds + master.certified(master.solve(seconds=seconds, gap=0.0, relax=True))


class MasterProgram:
    """The program for given moments.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        moments: nodes where memory is watched, ascending; not auxiliary.
        inside: pairs (node, recomputed node): watch memory also while the second is recomputed in the window that ends with the
            first or holds it.
        margins: bytes to leave free at some moments. The optimum is then no bound.
        options: how to build it.
        links: what copies to pools may take; None for schedules without copies.
    """

    def __init__(
        self,
        problem: Problem,
        budget: float,
        moments: Sequence[int],
        *,
        inside: Collection[tuple[int, int]] = (),
        margins: Mapping[int, int] | None = None,
        options: ProgramOptions = DEFAULT_PROGRAM,
        links: Links | None = None,
    ) -> None:
        # Inside rows see which node of a window runs: there every node needs a column of its own.
        columns = Columns(problem, budget, moments, fuse=options.fuse_nodes and not inside, links=links)
        add_availability_rows(columns)
        add_memory_rows(columns, margins or {})
        if options.closure_rows:
            add_closure_rows(columns)
        add_inside_rows(columns, inside)
        add_copy_rows(columns)
        self.problem = problem
        self.moments = columns.moments
        self.program = columns.program
        self._columns = columns

    def solve(
        self,
        *,
        seconds: float,
        gap: float,
        relax: bool = False,
        start: Decision | None = None,
        watch: Watch | None = None,
    ) -> Outcome:
        """Solve for at most ``seconds``.

        Objective and bound of the outcome, ``gap``, and the bound that ``watch`` receives are seconds beyond a run without
        recomputation.

        Args:
            seconds: time limit.
            gap: precision.
            relax: drop integrality.
            start: the decision of a sequence within the budget at the same moments.
            watch: see ``MixedIntegerProgram.solve``.
        """
        values = None if start is None else self._values(start)
        in_seconds = None if watch is None else lambda bound: watch(self._overhead(bound))
        gap /= self._columns.cost_unit
        outcome = self.program.solve(seconds=seconds, gap=gap, relax=relax, start=values, watch=in_seconds)
        return replace(outcome, objective=self._overhead(outcome.objective), bound=self._overhead(outcome.bound))

    def _overhead(self, value: float) -> float:
        """Seconds beyond a run without recomputation, from a value of the program's objective."""
        return (value - self._columns.cost_of_early) * self._columns.cost_unit

    def certified(self, outcome: Outcome) -> float:
        """Seconds beyond a run without recomputation that follow from the duals of a relaxation, whatever their errors."""
        if outcome.duals is None:
            return math.inf if outcome.status == "infeasible" else 0.0
        return max(0.0, self._overhead(self.program.certified(outcome.duals)) * (1 - 1e-12))

    def _values(self, decision: Decision) -> dict[int, float]:
        """The integer columns of a decision; HiGHS completes the others."""
        columns = self._columns
        values = {column: float(node not in decision.late) for node, column in columns.early.items()}
        for k in range(len(self.moments)):
            values.update((column, float(i in decision.held[k])) for i, column in columns.held[k].items())
            for node, column in columns.again[k].items():  # fused nodes share a column
                values[column] = max(values.get(column, 0.0), float(node in decision.again[k]))
        return values

    def fix_ends(self, decision: Decision) -> None:
        """Fix everything before the first moment and after the last one as in ``decision``."""
        columns, values = self._columns, self._values(decision)
        for group in (columns.held[0], columns.held[-1], columns.again[-1], columns.early):
            for column in group.values():
                self.program.fix(column, values[column])

    @property
    def held(self) -> Sequence[Mapping[int, int]]:
        """For each moment the column of each item that may be in memory then."""
        return self._columns.held

    @property
    def loaded(self) -> Sequence[Mapping[int, int]]:
        """For each moment the column of each item that may be away then, and loaded before the next moment."""
        return self._columns.loaded

    def decision(self, values: np.ndarray) -> Decision:
        """Read a solution."""
        chosen = values > 0.5
        return Decision(
            self.moments,
            tuple(frozenset(i for i, column in held.items() if chosen[column]) for held in self._columns.held),
            tuple(frozenset(v for v, column in again.items() if chosen[column]) for again in self._columns.again),
            frozenset(v for v, column in self._columns.early.items() if not chosen[column]),
        )
