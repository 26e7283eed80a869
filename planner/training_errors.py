"""What can go wrong when a planned module trains. Each is the clear form of what eager would raise, or of what it could not
do.
"""

from __future__ import annotations


class AlreadyAppliedError(ValueError):
    """``apply_schedule`` was given a module that has a schedule already."""


class NotAppliedError(ValueError):
    """``remove_schedule`` was given a module without a schedule."""


class TransformError(RuntimeError):
    """A planned module is called inside of a ``torch.func`` transform."""


class ShardedError(RuntimeError):
    """A planned module is called while its parameters are DTensors.

    Attributes:
        names: those parameters.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class BackwardError(RuntimeError):
    """The backward of a planned module cannot run."""


class BackwardTwiceError(BackwardError):
    """A second backward through the same forward, without ``retain_graph=True`` in the first."""


class DoubleBackwardError(BackwardError):
    """A gradient of gradients (``create_graph=True``): a plan covers one forward and one backward."""


class ChangedInBetweenError(BackwardError):
    """A tensor that the backward reads was changed in place after the forward.

    Attributes:
        names: parameters, buffers, inputs and outputs that were changed.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class SharedCastError(BackwardError):
    """Two calls share casts of their parameters, and send their gradients in one backward."""


class UnexpectedGradientError(BackwardError):
    """A gradient arrived at an output to which the planned loss sends none.

    Attributes:
        output: the output, as in "['logits']".
    """

    def __init__(self, message: str, *, output: str) -> None:
        super().__init__(message)
        self.output = output
