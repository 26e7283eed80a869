"""What can be wrong with a graph, a schedule or a schedule file. Every error carries its data."""

from __future__ import annotations


class GraphError(ValueError):
    """The graph is malformed: a cycle, an edge to nowhere, a cost that is no number."""


class InvalidScheduleError(ValueError):
    """A sequence of op executions that cannot run.

    Attributes:
        step: position in the sequence, or None where the fault is an op that never runs.
        op: name of the op.
    """

    def __init__(self, message: str, *, step: int | None, op: str) -> None:
        super().__init__(message)
        self.step = step
        self.op = op


class ScheduleFileError(ValueError):
    """A schedule file that cannot be read: truncated, of another format version, or inconsistent with itself."""


class StaleScheduleError(ValueError):
    """A schedule that was made for another model, other inputs or another version of the graph.

    Attributes:
        differences: what differs, one line each.
    """

    def __init__(self, message: str, *, differences: tuple[str, ...]) -> None:
        super().__init__(message)
        self.differences = differences
