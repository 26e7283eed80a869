"""What the command says of an error: the exit code, advice, a traceback where it helps, and data for ``--json``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from remat_planner.planner.cli.exit_codes import ExitCode, UsageError
from remat_planner.planner.errors import (
    BatchError,
    BudgetError,
    CompilerError,
    EagerStepError,
    ExportError,
    InfeasibleBudgetError,
    OffloadError,
    OptimizerError,
    RegionError,
    ShapesError,
    VariantsError,
    VerificationError,
)
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.model_loading import ModelCodeError, ModelNotLoadedError
from remat_planner.schedules import GraphError, ScheduleFileError, StaleScheduleError, TrainingStateError
from remat_planner.solvers import OrderError, SolverMissingError, UnknownSolverError
from remat_planner.tracer import CaptureError
from remat_planner.tracer.costs import CostError, MeasurementError

_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (InfeasibleBudgetError, ExitCode.INFEASIBLE),
    (BudgetError, ExitCode.USAGE),
    (BatchError, ExitCode.MODEL),
    (RegionError, ExitCode.MODEL),
    (ExportError, ExitCode.MODEL),
    (CompilerError, ExitCode.USAGE),
    (ShapesError, ExitCode.MODEL),
    (OptimizerError, ExitCode.USAGE),
    (VariantsError, ExitCode.USAGE),
    (OffloadError, ExitCode.USAGE),
    (OrderError, ExitCode.USAGE),
    (TrainingStateError, ExitCode.USAGE),
    (UnknownSolverError, ExitCode.USAGE),
    (SolverMissingError, ExitCode.USAGE),
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


def show_traceback(error: Exception, code: ExitCode) -> None:
    """The user's own traceback where their code raised; ours only where the fault is ours."""
    if isinstance(error, ModelCodeError) and error.__cause__ is not None:
        traceback.print_exception(type(error.__cause__), error.__cause__, error.traceback, file=sys.stderr)
    elif code is ExitCode.UNEXPECTED:
        traceback.print_exception(error, file=sys.stderr)


def advice_on(error: Exception) -> Iterator[str]:
    if isinstance(error, InfeasibleBudgetError):
        yield f"least budget: {format_bytes_both(error.minimum)}, that is --budget {error.minimum}"
    if isinstance(error, ModelCodeError) and _asks_for_an_absent_gpu(error.__cause__):
        yield (
            "the model's code asks for a CUDA GPU, and this machine has none that PyTorch can use: plan for one from its data "
            "sheet with --device NAME (`plan devices` lists them), or leave the model on the CPU"
        )
    if isinstance(error, ModelNotLoadedError) and error.candidates:
        yield "found there: " + ", ".join(error.candidates)


def _asks_for_an_absent_gpu(cause: BaseException | None) -> bool:
    return not torch.cuda.is_available() and any(word in str(cause) for word in ("CUDA", "NVIDIA"))


def data_of(error: Exception) -> dict[str, Any]:
    """What the JSON document says of an error beside its message."""
    if isinstance(error, InfeasibleBudgetError):
        return {
            "budget_bytes": error.budget,
            "minimum_bytes": error.minimum,
            "bottleneck": error.bottleneck,
            "proven": error.proven,
            "inputs": dict(error.inputs) if error.inputs is not None else None,
            "values": [asdict(value) for value in error.values],
        }
    if isinstance(error, OffloadError):
        return {"pool": error.pool, "needed_bytes": error.needed, "available_bytes": error.available}
    if isinstance(error, ModelNotLoadedError):
        return {"candidates": list(error.candidates)}
    if isinstance(error, ExportError):
        return {"form": error.form, "names": list(error.names)}
    if isinstance(error, StaleScheduleError):
        return {"differences": list(error.differences)}
    return {}
