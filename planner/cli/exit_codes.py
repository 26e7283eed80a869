"""How a run of the command ends: exit codes, and errors as people and as programs read them."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch
import typer
from rich.console import Console
from rich.text import Text

from remat_planner.planner.errors import (
    BatchError,
    BudgetError,
    ExportError,
    InfeasibleBudgetError,
    OptimizerError,
    RegionError,
    TrainingStateError,
)
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.model_loading import ModelCodeError, ModelNotLoadedError
from remat_planner.schedules import GraphError, ScheduleFileError, StaleScheduleError
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


class UsageError(Exception):
    """Something about the call itself that typer cannot know: an output file that cannot be written."""


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (InfeasibleBudgetError, ExitCode.INFEASIBLE),
    (BudgetError, ExitCode.USAGE),
    (BatchError, ExitCode.MODEL),
    (RegionError, ExitCode.MODEL),
    (ExportError, ExitCode.MODEL),
    (OptimizerError, ExitCode.USAGE),
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
)


@contextlib.contextmanager
def outcome(*, as_json: bool) -> Iterator[Console]:
    """Run a command: gives the console of the result, and turns what is raised into a message and an exit code.

    Whatever else prints (the model's own code, libraries) goes to stderr, so that stdout holds the result and nothing else.

    Raises:
        typer.Exit: with the code, where the command failed.
    """
    result = Console(file=sys.stdout, soft_wrap=False, highlight=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield result
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
        _tell("interrupted; nothing was written")
        _document_error(result, as_json, "KeyboardInterrupt", "interrupted; nothing was written", code)
        raise typer.Exit(code) from None
    except Exception as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.UNEXPECTED)
        _show_traceback(error, code)
        _tell(str(error) or type(error).__name__)
        for line in _advice(error):
            _tell(line, label="")
        _document_error(result, as_json, type(error).__name__, str(error), code, **_data(error))
        raise typer.Exit(code) from None


def print_document(result: Console, document: dict[str, Any]) -> None:
    """Write the one JSON document of ``--json``."""
    result.file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _tell(message: str, *, label: str = "error: ") -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble((label, "bold red"), message))


def _show_traceback(error: Exception, code: ExitCode) -> None:
    """The user's traceback where their code raised, without our frames; ours only where the fault is ours."""
    if isinstance(error, ModelCodeError) and error.__cause__ is not None:
        traceback.print_exception(type(error.__cause__), error.__cause__, error.traceback, file=sys.stderr)
    elif code is ExitCode.UNEXPECTED:
        traceback.print_exception(error, file=sys.stderr)


def _advice(error: Exception) -> Iterator[str]:
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


def _data(error: Exception) -> dict[str, Any]:
    if isinstance(error, InfeasibleBudgetError):
        return {
            "budget_bytes": error.budget,
            "minimum_bytes": error.minimum,
            "bottleneck": error.bottleneck,
            "proven": error.proven,
            "inputs": dict(error.inputs) if error.inputs is not None else None,
        }
    if isinstance(error, ModelNotLoadedError):
        return {"candidates": list(error.candidates)}
    if isinstance(error, ExportError):
        return {"form": error.form, "names": list(error.names)}
    if isinstance(error, StaleScheduleError):
        return {"differences": list(error.differences)}
    return {}


def _document_error(result: Console, as_json: bool, kind: str, message: str, code: ExitCode, **data: Any) -> None:
    if as_json:
        print_document(result, {"error": {"kind": kind, "message": message, "exit_code": int(code), **data}})
