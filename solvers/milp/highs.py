"""PuLP's interface to HiGHS, with a starting solution, a time limit that holds, and a watcher that may end the solve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from threading import TIMEOUT_MAX, Thread
from typing import Any

import highspy
import numpy as np
import pulp

# Called with the bound so far (-inf: none yet); True ends the solve.
Watch = Callable[[float], bool]

# HiGHS accepts a point that violates a row or a bound by this much, so an optimum is known to about this accuracy.
TOLERANCE = 1e-6
# HiGHS 1.16 can loop in its presolve for ever, whatever its time limit (strengthenInequalities, after a restart). We abandon
# its thread so many seconds after the limit, or after this share of the limit if that is more.
_GRACE = 1.0
_GRACE_SHARE = 0.1
# Seconds within which HiGHS ends when asked to: it asks only between relaxations.
_PATIENCE = 3.0
# Seconds between two calls of the watcher.
_WATCH_INTERVAL = 0.1

# PuLP keeps the errors of solvers that are not installed. Their tracebacks would keep alive the frames of whoever imports this
# file first, with a model and its tensors in them.
for _solver in vars(pulp.apis).values():
    if isinstance(_error := getattr(_solver, "err", None), BaseException):
        _error.__traceback__ = None


class StuckError(Exception):
    """HiGHS does not return."""


class Highs(pulp.HiGHS):  # type: ignore[misc]
    """HiGHS on one thread, silent.

    Args:
        start: values of some columns, by index; None for no starting solution.
        mip: False drops integrality.
        seconds: time limit.
        gap: stop where the objective is within this much of the bound.
        options: more of HiGHS's own.
        watch: called in the caller's thread several times a second.
    """

    def __init__(
        self,
        start: Mapping[int, float] | None,
        *,
        mip: bool,
        seconds: float,
        gap: float,
        options: Mapping[str, Any],
        watch: Watch | None,
    ) -> None:
        super().__init__(mip=mip, msg=False)
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

    def callSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 (PuLP's name)
        if self._start is not None:
            columns = np.fromiter(self._start.keys(), dtype=np.int32)
            values = np.fromiter(self._start.values(), dtype=np.float64)
            lp.solverModel.setSolution(len(columns), columns, values)
        if self._watch is not None:
            lp.solverModel.cbMipInterrupt.subscribe(self._on_event)
        running = Thread(target=lp.solverModel.run, daemon=True)
        limit = self._options["time_limit"]
        end = time.monotonic() + limit + max(_GRACE, _GRACE_SHARE * limit)
        running.start()
        try:
            while running.is_alive() and (left := end - time.monotonic()) > 0:
                running.join(min(left, TIMEOUT_MAX if self._watch is None or self._stop else _WATCH_INTERVAL))
                if self._watch is not None and not self._stop and self._watch(self._bound):
                    self._stop = True
                    end = min(end, time.monotonic() + _PATIENCE)
        finally:
            self._stop = True
        if running.is_alive():
            raise StuckError

    def _on_event(self, event: Any) -> None:
        """HiGHS asks, in its own thread, whether to go on."""
        # An infinite bound says that nothing is left to search: the outcome tells that at the end.
        if (bound := event.data_out.mip_dual_bound) < math.inf:
            self._bound = max(self._bound, bound)
        if self._stop:
            event.interrupt()


class _Quiet(highspy.Highs):
    """HiGHS without its banner, which it would print on the standard output when its callbacks are set up."""

    def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]
