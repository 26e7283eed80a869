"""What the exit codes of ``plan`` mean, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum

from remat_planner.planner.errors import (
    BatchError,
    BudgetError,
    EagerStepError,
    ExportError,
    InfeasibleBudgetError,
    LibraryMissingError,
    OffloadError,
    OptimizerError,
    RegionError,
    VerificationError,
)
from remat_planner.planner.model_loading import ModelCodeError, ModelNotLoadedError
from remat_planner.schedules import GraphError, ScheduleFileError, StaleScheduleError, TrainingStateError
from remat_planner.solvers import SolverMissingError, UnknownSolverError
from remat_planner.tracer import CaptureError
from remat_planner.tracer.costs import CostError, MeasurementError


class ExitCode(IntEnum):
    """What the exit code of ``plan`` means."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INFEASIBLE = 3
    MODEL = 4
    NOT_PROVEN = 5
    VERIFICATION_FAILED = 6
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141  # as of a program that SIGPIPE ends


MEANINGS = {
    ExitCode.OK: "the plan meets the budget",
    ExitCode.UNEXPECTED: "unexpected",
    ExitCode.USAGE: "usage",
    ExitCode.INFEASIBLE: "infeasible",
    ExitCode.MODEL: "the model or schedule cannot be loaded or traced",
    ExitCode.NOT_PROVEN: "not proven under --require-optimal",
    ExitCode.VERIFICATION_FAILED: "verification failed",
}
"""The codes that ``plan --help`` explains."""


class UsageError(Exception):
    """A mistake in the call itself that typer cannot know, such as an output file that cannot be written."""


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (InfeasibleBudgetError, ExitCode.INFEASIBLE),
    (BudgetError, ExitCode.USAGE),
    (BatchError, ExitCode.MODEL),
    (RegionError, ExitCode.MODEL),
    (ExportError, ExitCode.MODEL),
    (OptimizerError, ExitCode.USAGE),
    (OffloadError, ExitCode.USAGE),
    (TrainingStateError, ExitCode.USAGE),
    (UnknownSolverError, ExitCode.USAGE),
    (SolverMissingError, ExitCode.USAGE),
    (LibraryMissingError, ExitCode.USAGE),
    (UsageError, ExitCode.USAGE),
    (MeasurementError, ExitCode.MODEL),
    (CostError, ExitCode.USAGE),
    (ModelNotLoadedError, ExitCode.MODEL),
    (ModelCodeError, ExitCode.MODEL),
    (CaptureError, ExitCode.MODEL),
    (GraphError, ExitCode.MODEL),
    (ScheduleFileError, ExitCode.MODEL),
    (StaleScheduleError, ExitCode.VERIFICATION_FAILED),
    (EagerStepError, ExitCode.MODEL),
    (VerificationError, ExitCode.VERIFICATION_FAILED),
)


def exit_code_of(error: Exception) -> ExitCode:
    """The code of the first matching class; ``UNEXPECTED`` for an error that nobody planned for."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.UNEXPECTED)
