"""TODO: ."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from threading import TIMEOUT_MAX, Thread
from typing import Any

import highspy
import numpy as np
import pulp

Watch = Callable[[float], bool]

# HiGHS accepts a point that violates a row or a bound by this much, so an optimum is known to about this accuracy.
TOLERANCE = 1e-6
# HiGHS 1.16 can stay in a loop of its presolve for good, whatever its time limit (strengthenInequalities, after a restart). So
# many seconds over the limit, or this share of it, it is left to itself.
_GRACE, _GRACE_SHARE = 1.0, 0.1
# Asked to end, it comes back within so many seconds: it asks only between relaxations.
_PATIENCE = 3.0
# Seconds between two looks at a solve that is watched.
_LOOK = 0.1


class StuckError(Exception):
    """HiGHS does not come back."""


class _Quiet(highspy.Highs):
    """HiGHS without its banner, which it would print on the standard output when its callbacks are set up."""

    def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class Highs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's interface to HiGHS, silent, with a starting solution, and the model handed over in one piece."""

    def __init__(
        self,
        rows: Sequence[pulp.LpConstraint],
        start: Mapping[int, float] | None,
        *,
        mip: bool,
        seconds: float,
        gap: float,
        options: Mapping[str, Any],
        watch: Watch | None,
    ) -> None:
        super().__init__(mip=mip, msg=False)
        self._rows = rows
        self._start = start
        self._watch = watch
        self._bound, self._stop = -math.inf, False
        self._options = {
            "threads": 1,
            "time_limit": float(seconds),
            "mip_rel_gap": 0.0,
            "mip_abs_gap": max(gap, TOLERANCE),
            # Schedules come from elsewhere; sub-programs for them took half of the time.
            "mip_heuristic_effort": 0.0,
            **options,
        }

    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        lp.solverModel = _Quiet()  # type: ignore[no-untyped-call]
        for name, value in self._options.items():
            lp.solverModel.setOptionValue(name, value)

    def buildSolverModel(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        variables = lp.variables()
        for i, variable in enumerate(variables):
            variable.index = i
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(variables), len(self._rows)
        model.col_cost_ = np.array([lp.objective.get(variable, 0.0) for variable in variables], dtype=np.float64)
        model.col_lower_ = np.array([-math.inf if v.lowBound is None else v.lowBound for v in variables], dtype=np.float64)
        model.col_upper_ = np.array([math.inf if v.upBound is None else v.upBound for v in variables], dtype=np.float64)
        if self.mip and any(variable.cat == pulp.LpInteger for variable in variables):
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            model.integrality_ = [kinds[variable.cat == pulp.LpInteger] for variable in variables]
        start: list[int] = [0]
        index: list[int] = []
        value: list[float] = []
        lower: list[float] = []
        upper: list[float] = []
        for i, constraint in enumerate(self._rows):
            constraint.index = i
            index.extend(variable.index for variable in constraint)
            value.extend(constraint.values())
            start.append(len(index))
            lower.append(-math.inf if constraint.sense == pulp.LpConstraintLE else -constraint.constant)
            upper.append(math.inf if constraint.sense == pulp.LpConstraintGE else -constraint.constant)
        model.row_lower_ = np.array(lower, dtype=np.float64)
        model.row_upper_ = np.array(upper, dtype=np.float64)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.array(start, dtype=np.int32)
        model.a_matrix_.index_ = np.array(index, dtype=np.int32)
        model.a_matrix_.value_ = np.array(value, dtype=np.float64)
        lp.solverModel.passModel(model)

    def callSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        if self._start is not None:
            columns = np.fromiter(self._start.keys(), dtype=np.int32)
            values = np.fromiter(self._start.values(), dtype=np.float64)
            lp.solverModel.setSolution(len(columns), columns, values)
        if self._watch is not None:
            lp.solverModel.cbMipInterrupt.subscribe(self._tell)
        running = Thread(target=lp.solverModel.run, daemon=True)
        limit = self._options["time_limit"]
        end = time.monotonic() + limit + max(_GRACE, _GRACE_SHARE * limit)
        running.start()
        try:
            while running.is_alive() and (left := end - time.monotonic()) > 0:
                running.join(min(left, TIMEOUT_MAX if self._watch is None or self._stop else _LOOK))
                if self._watch is not None and not self._stop and self._watch(self._bound):
                    self._stop = True
                    end = min(end, time.monotonic() + _PATIENCE)
        finally:
            self._stop = True
        if running.is_alive():
            raise StuckError

    def _tell(self, event: Any) -> None:
        """HiGHS asks whether to go on, in its own thread."""
        # That nothing is left to search is said at the end.
        if (bound := event.data_out.mip_dual_bound) < math.inf:
            self._bound = max(self._bound, bound)
        if self._stop:
            event.interrupt()
