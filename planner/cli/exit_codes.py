"""What the exit codes of ``plan`` mean; ``error_reports`` knows which error ends with which."""

from __future__ import annotations

from enum import IntEnum


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
