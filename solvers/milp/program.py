"""Linear and mixed-integer programs through PuLP on HiGHS: one thread, a time limit that is kept, a bound with every answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pulp
from numpy.typing import NDArray

from remat_planner.solvers.milp.highs import Highs, StuckError, Watch

Status = Literal["optimal", "feasible", "infeasible", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a solve.

    Attributes:
        status: "optimal" within the gap, "feasible" (stopped with a solution), "infeasible", or "unknown" (stopped without).
        objective: of the solution; inf without one.
        bound: no solution has a lower objective, in HiGHS's floating-point arithmetic; inf if infeasible, -inf if unknown.
        values: float64[columns], the solution, or None.
        duals: float64[rows] of a linear program's optimum, or None.
        iterations: simplex iterations, a measure of the work.
    """

    status: Status
    objective: float
    bound: float
    values: NDArray[np.float64] | None
    duals: NDArray[np.float64] | None
    iterations: int = 0


class MixedIntegerProgram:
    """A minimisation, built column by column and row by row; continuous where no column is an integer."""

    def __init__(self) -> None:
        self._program = pulp.LpProblem("program", pulp.LpMinimize)
        self._columns: list[pulp.LpVariable] = []
        self._costs: list[float] = []
        self._rows: list[pulp.LpConstraint] = []

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self._columns)

    def column(self, cost: float = 0.0, lower: float = 0.0, upper: float | None = 1.0, *, integer: bool = False) -> int:
        """Add a variable; return its index."""
        category = pulp.LpInteger if integer else pulp.LpContinuous
        # PuLP sorts variables by name: padded numbers keep our order.
        self._columns.append(self._program.add_variable(f"x{len(self._columns):09d}", lower, upper, category))
        self._costs.append(cost)
        return len(self._columns) - 1

    def fix(self, column: int, value: float) -> None:
        """Fix a variable."""
        self._columns[column].lowBound = self._columns[column].upBound = value

    def at_least(self, terms: Mapping[int, float], right: float) -> int:
        """Add the row ``sum of coefficient * column >= right``; return its index."""
        return self._add(terms, right, pulp.LpConstraintGE)

    def at_most(self, terms: Mapping[int, float], right: float) -> int:
        """Add the row ``sum of coefficient * column <= right``; return its index."""
        return self._add(terms, right, pulp.LpConstraintLE)

    def _add(self, terms: Mapping[int, float], right: float, sense: int) -> int:
        columns = self._columns
        expression = pulp.LpAffineExpression((columns[column], value) for column, value in terms.items())
        row = pulp.LpConstraint(expression, sense, None, right)
        self._program.addConstraint(row)
        self._rows.append(row)
        return len(self._rows) - 1

    def solve(
        self,
        *,
        seconds: float,
        gap: float = 0.0,
        relax: bool = False,
        start: Mapping[int, float] | None = None,
        options: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> Outcome:
        """Solve for at most ``seconds``.

        Args:
            seconds: time limit.
            gap: stop where the objective is within this much of the bound.
            relax: drop integrality.
            start: values of the integer columns of a solution to start from.
            options: for HiGHS.
            watch: called in this thread several times a second with the bound so far (-inf: none); True ends the solve.
        """
        if seconds <= 0:
            return Outcome("unknown", math.inf, -math.inf, None, None)
        self._program.setObjective(pulp.LpAffineExpression(zip(self._columns, self._costs, strict=True)))
        solver = Highs(start, mip=not relax, seconds=seconds, gap=gap, options=options or {}, watch=watch)
        try:
            self._program.solve(solver)
        except StuckError:
            return Outcome("unknown", math.inf, -math.inf, None, None)
        outcome = self._outcome(self._program.solverModel, relax=relax)
        if start is not None and not self._consistent(outcome):
            return self.solve(seconds=seconds, gap=gap, relax=relax, options=options, watch=watch)
        return outcome

    def certified(self, duals: NDArray[np.float64]) -> float:
        """A lower bound on every feasible objective that follows from ``duals``, however wrong they are.

        By weak duality any multipliers of the right sign give a bound: their products with the right sides, plus for each
        column the least that its reduced cost can add within its bounds. The sums are exact but for the rounding of the
        products; we subtract 1e-12 of the absolute values for that. Columns need finite bounds (Neumaier and Shcherbina 2004).
        """
        reduced: list[list[float]] = [[cost] for cost in self._costs]
        place = {id(column): j for j, column in enumerate(self._columns)}
        terms: list[float] = []
        for row, dual in zip(self._rows, duals.tolist(), strict=True):
            multiplier = max(dual, 0.0) if row.sense == pulp.LpConstraintGE else min(dual, 0.0)
            if multiplier:
                terms.append(multiplier * -row.constant)
                for column, value in row.items():
                    reduced[place[id(column)]].append(-multiplier * value)
        margin = math.fsum(map(abs, terms))
        for column, parts in zip(self._columns, reduced, strict=True):
            slope, error = math.fsum(parts), 1e-12 * math.fsum(map(abs, parts))
            ends = (column.lowBound, column.upBound)
            terms.append(min(end * tilted for end in ends for tilted in (slope - error, slope + error)))
            margin += abs(terms[-1])
        return math.fsum(terms) - 1e-12 * margin

    def _consistent(self, outcome: Outcome) -> bool:
        """Whether the values have the objective that HiGHS reports.

        HiGHS 1.16, given a start that leaves columns open, sometimes returns the start with an objective below the optimum.
        """
        if outcome.values is None:
            return True
        objective = float(np.dot(self._costs, outcome.values))
        return abs(objective - outcome.objective) <= 1e-6 * max(1.0, abs(outcome.objective))

    def _outcome(self, highs: Any, *, relax: bool) -> Outcome:
        info = highs.getInfo()
        status = highs.modelStatusToString(highs.getModelStatus())
        relaxed = relax or not any(column.cat == pulp.LpInteger for column in self._columns)
        if status == "Infeasible":
            return Outcome("infeasible", math.inf, math.inf, None, None)
        solved = info.primal_solution_status == 2  # kSolutionStatusFeasible
        solution = highs.getSolution()
        values = np.array(solution.col_value) if solved else None
        duals = np.array(solution.row_dual) if relaxed and info.dual_solution_status == 2 else None
        if relaxed:
            bound = info.objective_function_value if status == "Optimal" else -math.inf
        else:
            bound = info.mip_dual_bound if math.isfinite(info.mip_dual_bound) else -math.inf
        objective = info.objective_function_value if solved else math.inf
        kind: Status = ("optimal" if status == "Optimal" else "feasible") if solved else "unknown"
        return Outcome(kind, objective, bound, values, duals, max(0, int(info.simplex_iteration_count)))
