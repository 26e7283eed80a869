"""What can be wrong with costs. Every error says what to do next and carries its data."""

from __future__ import annotations

from collections.abc import Mapping


class CostError(ValueError):
    """The cost of an operator cannot be found."""


class UnknownDeviceError(CostError):
    """A device that is in no table.

    Attributes:
        name: what was asked for.
        known: the names that there are.
    """

    def __init__(self, message: str, *, name: str, known: tuple[str, ...]) -> None:
        super().__init__(message)
        self.name = name
        self.known = known


class DeviceNotAtHandError(CostError):
    """Measuring was asked for on a device that this machine does not have.

    Attributes:
        device: its name.
    """

    def __init__(self, message: str, *, device: str) -> None:
        super().__init__(message)
        self.device = device


class MeasurementError(CostError):
    """Operators that fail when run by themselves, so that measuring cannot tell their cost.

    Attributes:
        calls: each call, and why it failed.
    """

    def __init__(self, calls: Mapping[str, str]) -> None:
        lines = "\n".join(f"  {call}: {reason}" for call, reason in calls.items())
        super().__init__(
            f"{len(calls)} operator call(s) could not be measured alone, on made-up arguments of the right shapes:\n{lines}\n"
            "Plan with the roofline of a named device (costs='h100') or with a profile that has them in place of measuring"
        )
        self.calls = dict(calls)


class ProfileError(CostError):
    """A profile file that cannot be read, or that says too little about a model.

    Attributes:
        path: the file.
        missing: calls that it has not and that cannot be estimated from what it has.
    """

    def __init__(self, message: str, *, path: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.missing = missing


class ProfileWarning(UserWarning):
    """A profile was measured under other conditions, or some of its costs are estimates."""
