"""How a run of the command ends: its result on stdout, or an error as people and as programs read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from remat_planner.planner.cli.exit_codes import ExitCode, UsageError
from remat_planner.planner.cli.output import (
    OutputClosedError,
    OutputNotWrittenError,
    SafeConsole,
    print_document,
    stdout_for_the_result,
)
from remat_planner.planner.cli.wording import in_options

_INTERRUPTED = "interrupted; nothing was written"


@contextlib.contextmanager
def outcome(*, as_json: bool) -> Iterator[SafeConsole]:
    """Run a command: yields the console of its result, and turns an exception into a message and an exit code.

    Whatever else prints (the model's own code, libraries) goes to stderr, so that stdout is the result and nothing else.

    Raises:
        typer.Exit: with the code, where the command failed.
    """
    with stdout_for_the_result() as stdout, _exit_codes(result := SafeConsole(stdout, soft_wrap=False), as_json=as_json):
        yield result


@contextlib.contextmanager
def _exit_codes(result: SafeConsole, *, as_json: bool) -> Iterator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except OutputClosedError:
        raise typer.Exit(ExitCode.OUTPUT_CLOSED) from None
    except KeyboardInterrupt:
        tell_error(_INTERRUPTED)
        _document_error(result, as_json, "KeyboardInterrupt", _INTERRUPTED, ExitCode.INTERRUPTED)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except OutputNotWrittenError as error:
        tell_error(f"stdout cannot be written ({error}): the result is not there, or not all of it")
        raise typer.Exit(ExitCode.USAGE) from None
    except UsageError as error:
        tell_error(str(error))
        _document_error(result, as_json, "UsageError", str(error), ExitCode.USAGE)
        raise typer.Exit(ExitCode.USAGE) from None
    except Exception as error:
        from remat_planner.planner.cli.error_reports import advice_on, data_of, exit_code_of, show_traceback  # imports torch

        code, message = exit_code_of(error), in_options(str(error)) or type(error).__name__
        show_traceback(error, code)
        tell_error(message, *advice_on(error))
        _document_error(result, as_json, type(error).__name__, message, code, **data_of(error))
        raise typer.Exit(code) from None


def tell_error(message: str, *advice: str) -> None:
    """Print an error and lines of advice to stderr."""
    console = SafeConsole(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), message))
    for line in advice:
        console.print(Text(line))


def _document_error(result: SafeConsole, as_json: bool, kind: str, message: str, code: ExitCode, **data: Any) -> None:
    if as_json:
        with contextlib.suppress(OutputClosedError, OutputNotWrittenError):
            print_document(result, {"error": {"kind": kind, "message": message, "exit_code": int(code), **data}})
