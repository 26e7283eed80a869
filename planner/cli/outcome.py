"""How a run of the command ends: its result on stdout, or an error as people and as programs read it."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import torch
import typer
from rich.text import Text

from remat_planner.planner.cli.exit_codes import ExitCode, exit_code_of
from remat_planner.planner.cli.output import OutputClosedError, SafeConsole, discard_stdout, print_document
from remat_planner.planner.errors import ExportError, InfeasibleBudgetError, OffloadError
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.model_loading import ModelCodeError, ModelNotLoadedError
from remat_planner.schedules import StaleScheduleError

_INTERRUPTED = "interrupted; nothing was written"


@contextlib.contextmanager
def outcome(*, as_json: bool) -> Iterator[SafeConsole]:
    """Run a command: yields the console of its result, and turns an exception into a message and an exit code.

    Whatever else prints (the model's own code, libraries) goes to stderr, so that stdout is the result and nothing else.

    Raises:
        typer.Exit: with the code, where the command failed.
    """
    result = SafeConsole(sys.stdout, soft_wrap=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield result
    except typer.Exit:
        raise
    except OutputClosedError:
        discard_stdout()
        raise typer.Exit(ExitCode.OUTPUT_CLOSED) from None
    except KeyboardInterrupt:
        tell_error(_INTERRUPTED)
        _document_error(result, as_json, "KeyboardInterrupt", _INTERRUPTED, ExitCode.INTERRUPTED)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except Exception as error:
        code = exit_code_of(error)
        _show_traceback(error, code)
        tell_error(str(error) or type(error).__name__, *_advice(error))
        _document_error(result, as_json, type(error).__name__, str(error), code, **_data(error))
        raise typer.Exit(code) from None


def tell_error(message: str, *advice: str) -> None:
    """Print an error and lines of advice to stderr."""
    console = SafeConsole(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), message))
    for line in advice:
        console.print(Text(line))


def _show_traceback(error: Exception, code: ExitCode) -> None:
    """The user's own traceback where their code raised; ours only where the fault is ours."""
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
    """What the JSON document says of an error beside its message."""
    if isinstance(error, InfeasibleBudgetError):
        return {
            "budget_bytes": error.budget,
            "minimum_bytes": error.minimum,
            "bottleneck": error.bottleneck,
            "proven": error.proven,
            "inputs": dict(error.inputs) if error.inputs is not None else None,
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


def _document_error(result: SafeConsole, as_json: bool, kind: str, message: str, code: ExitCode, **data: Any) -> None:
    if as_json:
        with contextlib.suppress(OutputClosedError):
            print_document(result, {"error": {"kind": kind, "message": message, "exit_code": int(code), **data}})
