"""What can go wrong between a model and its schedule. Every error says what to do next and carries its data."""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.planner.formatting import format_inputs


class BudgetError(ValueError):
    """A budget that is no number of bytes: "40XB", zero, negative, NaN."""


class BatchError(ValueError):
    """Inputs without a batch dimension to search."""


class ShapesError(ValueError):
    """A form of input that a model cannot be called with.

    Attributes:
        number: its place in the list; None where it is the list.
    """

    def __init__(self, message: str, *, number: int | None) -> None:
        super().__init__(message)
        self.number = number


class OptimizerError(ValueError):
    """An optimizer whose state cannot be counted: an unknown name, or one that needs more than gradients to step."""


class TrainingStateError(ValueError):
    """A gradient dtype or a number of shards that means nothing, or that cannot be had here."""


class CompilerError(RuntimeError):
    """A compiler that is not known, cannot be used here, or cannot compile the schedule.

    Attributes:
        compiler: its name.
    """

    def __init__(self, message: str, *, compiler: str) -> None:
        super().__init__(message)
        self.compiler = compiler


class SavedSetError(ValueError):
    """What a schedule keeps is not all in the graph that ``torch.compile`` captures of the model.

    Attributes:
        ops: names of the ops of the schedule whose results are missing.
    """

    def __init__(self, message: str, *, ops: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ops = ops


class InfeasibleBudgetError(ValueError):
    """No schedule was found within the budget.

    Attributes:
        budget: the bytes asked for.
        minimum: the least budget, in bytes, for which a schedule was found.
        bottleneck: name of the op that sets the minimum.
        proven: True where no schedule can exist within the budget, False where none was found in the time.
        inputs: the form of input that it is about, by place, where there are several.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: int,
        minimum: int,
        bottleneck: str,
        proven: bool,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.minimum = minimum
        self.bottleneck = bottleneck
        self.proven = proven
        self.inputs = inputs

    def of_form(self, inputs: Mapping[str, str], other: str = "") -> InfeasibleBudgetError:
        """The same error, saying which form of input it is about, and ``other`` things."""
        return InfeasibleBudgetError(
            f"for inputs of the form {format_inputs(inputs)}, {self}{other}",
            budget=self.budget,
            minimum=self.minimum,
            bottleneck=self.bottleneck,
            proven=self.proven,
            inputs=inputs,
        )


class ExportError(ValueError):
    """A model or schedule that cannot be put into the form asked for, in whole or at all.

    Attributes:
        form: what was asked for.
        names: the modules that stand in the way, or the forms that there are.
    """

    def __init__(self, message: str, *, form: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.form = form
        self.names = names


class RegionError(ValueError):
    """Regions that cannot be planned as asked: nothing has that name, one lies inside another, one is not called.

    Attributes:
        names: the regions that are meant, or what could have been.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


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
