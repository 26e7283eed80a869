"""The errors of a capture. Each derives from ``CaptureError``, says what to do next, and carries its data.

``tracer.refusals`` builds most of them.
"""

from __future__ import annotations

from typing import Literal


class CaptureError(RuntimeError):
    """The training step cannot be captured."""


class ModelNotSupportedError(CaptureError):
    """The model is wrapped (DDP, FSDP), compiled, sharded, or is no module.

    Attributes:
        kind: which of these.
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
    """The code reads a number from a tensor that depends on parameters, on random draws, or on inputs without values.

    Attributes:
        source: "file:line" that reads it.
        operator: the operator that would read it.
    """

    def __init__(self, message: str, *, source: str, operator: str) -> None:
        super().__init__(message)
        self.source = source
        self.operator = operator


class PythonDrawError(DataDependentError):
    """The code draws from the random generator of Python or NumPy.

    Attributes:
        part: which code does.
    """

    def __init__(self, message: str, *, source: str, part: Literal["forward", "backward"]) -> None:
        super().__init__(message, source=source, operator="random")
        self.part: Literal["forward", "backward"] = part


class StateReassignedError(CaptureError):
    """The forward replaces a parameter or buffer by another tensor (``self.b = x``), which a captured step would lose.

    Attributes:
        names: full names of the parameters and buffers.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class PythonStateError(CaptureError):
    """The forward changes Python state from step to step (``self.count += 1``), which a captured step keeps as planned.

    Attributes:
        names: full names of the attributes.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class RandomStateError(CaptureError):
    """The code reads or sets the state of a random generator of torch (``manual_seed``), which a captured step would lose.

    Attributes:
        call: the function that it calls.
        source: "file:line" that calls it; "" where it is not known.
    """

    def __init__(self, message: str, *, call: str, source: str) -> None:
        super().__init__(message)
        self.call = call
        self.source = source


class LostHookError(CaptureError):
    """Hooks that only observe (print, store, check), which a captured step would not run.

    Attributes:
        names: kind and place of each hook, with the name of its function.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class SurroundingsError(CaptureError):
    """Code around the call (a function mode, hooks on all modules or of saved tensors) would not run in a captured step.

    Attributes:
        what: its name.
    """

    def __init__(self, message: str, *, what: str) -> None:
        super().__init__(message)
        self.what = what


class LossError(CaptureError):
    """The loss is not a differentiable scalar.

    Attributes:
        shape: the loss's shape; None where it is no tensor.
    """

    def __init__(self, message: str, *, shape: tuple[int, ...] | None) -> None:
        super().__init__(message)
        self.shape = shape


class LossRaisedError(LossError):
    """The loss's own code raised when called on the model's output; that exception is the ``__cause__``.

    Attributes:
        source: "file:line" of the frame that raised.
    """

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message, shape=None)
        self.source = source


class UnsupportedOperatorError(CaptureError):
    """An operator or tensor that the joint graph cannot hold (sparse gradients, in-place ops without another form).

    Attributes:
        operator: the operator.
        source: "file:line" that calls it.
    """

    def __init__(self, message: str, *, operator: str, source: str) -> None:
        super().__init__(message)
        self.operator = operator
        self.source = source
