"""What cannot be captured. Every error derives from ``CaptureError``, says what to do, and carries its data."""

from __future__ import annotations

from collections.abc import Sequence


class CaptureError(RuntimeError):
    """The training step cannot be captured."""


class ModelNotSupportedError(CaptureError):
    """The model is wrapped (DDP, FSDP), compiled, sharded, or is no module.

    Attributes:
        kind: what it is.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class NothingToTrainError(CaptureError):
    """No parameter requires a gradient, or no output depends on one that does."""


class InputsDoNotFitError(CaptureError):
    """The model's own code raised when called on these inputs; that exception is the ``__cause__``.

    Attributes:
        source: "file:line" of the user's or library's frame that raised.
    """

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message)
        self.source = source


class DataDependentError(CaptureError):
    """The forward reads a number from a tensor that depends on parameters, on random draws, or on inputs without values.

    Attributes:
        source: "file:line" that reads it.
        operator: the operator that would have read it.
    """

    def __init__(self, message: str, *, source: str, operator: str) -> None:
        super().__init__(message)
        self.source = source
        self.operator = operator


class StateReassignedError(CaptureError):
    """The forward puts another tensor in the place of a parameter or buffer (``self.b = x``), which a captured graph would
    lose.

    Attributes:
        names: full names of the parameters and buffers.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class PythonStateError(CaptureError):
    """The forward changes Python state from step to step (``self.count += 1``), which a captured graph takes as it was once.

    Attributes:
        names: full names of the attributes.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class LostHookError(CaptureError):
    """Hooks that only look on (print, store, check), which a captured step would not run.

    Attributes:
        names: where each is and what it is called.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class LossError(CaptureError):
    """The loss is not a differentiable scalar.

    Attributes:
        shape: the loss's shape, where it is a tensor.
    """

    def __init__(self, message: str, *, shape: tuple[int, ...] | None) -> None:
        super().__init__(message)
        self.shape = shape


class UnsupportedOperatorError(CaptureError):
    """An operator or tensor that the joint graph cannot hold (sparse gradients, nested tensors, an in-place op that stays).

    Attributes:
        operator: the operator.
        source: "file:line" that called it.
    """

    def __init__(self, message: str, *, operator: str, source: str) -> None:
        super().__init__(message)
        self.operator = operator
        self.source = source


def reassigned_error(names: Sequence[str]) -> StateReassignedError:
    """The error for tensors of the model that its forward replaces instead of updating them."""
    return StateReassignedError(
        f"the forward assigns a new tensor to {', '.join(names)}: a captured step cannot carry a reassigned tensor from one "
        "step to the next. Update it in place (`self.x.copy_(new)` on a registered buffer) instead",
        names=tuple(names),
    )
