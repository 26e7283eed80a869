"""Errors about costs. Each says what to do next and carries its data."""

from __future__ import annotations

from collections.abc import Mapping


class CostError(ValueError):
    """The cost of an operator cannot be determined."""


class UnknownDeviceError(CostError):
    """No device in the table has this name.

    Attributes:
        name: the name as it was given.
        known: the names in the table.
    """

    def __init__(self, message: str, *, name: str, known: tuple[str, ...]) -> None:
        super().__init__(message)
        self.name = name
        self.known = known


class DeviceNotAtHandError(CostError):
    """The costs are to be measured on a device that this machine does not have.

    Attributes:
        device: its name.
    """

    def __init__(self, message: str, *, device: str) -> None:
        super().__init__(message)
        self.device = device


class LinkError(CostError):
    """The rates of a link to the host are not known, or there is no such link."""


class MeasurementError(CostError):
    """No operator of the step could be measured.

    Attributes:
        calls: the reason for each call that failed.
    """

    def __init__(self, calls: Mapping[str, str]) -> None:
        lines = "\n".join(f"  {call}: {reason}" for call, reason in calls.items())
        super().__init__(
            f"{len(calls)} operator call(s) could not be measured alone, on sample arguments of the right shapes:\n{lines}\n"
            "Instead of measuring, plan for a named device (costs='h100') or with a profile that has these calls. Where an "
            "operator needs particular values, give them with remat_planner.register_operator(..., sample_inputs=...)"
        )
        self.calls = dict(calls)


class MeasurementWarning(UserWarning):
    """Some operators fail when they run alone, so their costs are estimates."""


class ProfileError(CostError):
    """A profile file cannot be read, or lacks too much of a model.

    Attributes:
        path: the file.
        missing: calls that it lacks and that its other calls give no estimate for.
    """

    def __init__(self, message: str, *, path: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.missing = missing


class ProfileWarning(UserWarning):
    """A profile was measured under other conditions, or some of its costs are estimates."""
