"""Errors about graphs, schedules and schedule files. Each carries its data."""

from __future__ import annotations


class GraphError(ValueError):
    """A malformed graph: a cycle, an edge to a missing op, a cost that is not a finite number."""


class InvalidScheduleError(ValueError):
    """A sequence of op executions that cannot run.

    Attributes:
        step: position in the sequence, or None where an op never runs.
        op: name of the op.
    """

    def __init__(self, message: str, *, step: int | None, op: str) -> None:
        super().__init__(message)
        self.step = step
        self.op = op


class ScheduleFileError(ValueError):
    """A schedule file that cannot be used: truncated, of another format version, or inconsistent."""


class StaleScheduleError(ValueError):
    """A schedule of another model, other inputs or another version of the graph.

    Attributes:
        differences: what differs, one line each.
    """

    def __init__(self, message: str, *, differences: tuple[str, ...]) -> None:
        super().__init__(message)
        self.differences = differences


class TrainingStateError(ValueError):
    """An option of the training state has no such value, contradicts another one, or means nothing on this device."""
