"""The errors of planning, applying and exporting. Every error says what to do next and carries its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remat_planner.planner.formatting import format_inputs


class BudgetError(ValueError):
    """The budget is not a number of bytes above zero, or means nothing on the plan's device."""


class BatchError(ValueError):
    """The inputs have no batch dimension, which ``fit`` scales."""


class ShapesError(ValueError):
    """The model cannot be called with a form of input in ``shapes``.

    Attributes:
        number: index of the form in the list; None if the list itself is wrong.
    """

    def __init__(self, message: str, *, number: int | None) -> None:
        super().__init__(message)
        self.number = number


class VariantsError(ValueError):
    """The forms of operators that a plan may take are neither "exact" nor "any"."""


class OptimizerError(ValueError):
    """The bytes of an optimizer cannot be counted: its name is unknown, or its step needs more than gradients."""


class CompilerError(RuntimeError):
    """A compiler is unknown, cannot be used here, or cannot compile the schedule.

    Attributes:
        compiler: name of the compiler.
    """

    def __init__(self, message: str, *, compiler: str) -> None:
        super().__init__(message)
        self.compiler = compiler


class OffloadError(RuntimeError):
    """Copies of activations to a pool beside the device are asked for in a way that means nothing, cannot be made, or failed.

    Attributes:
        pool: "host" or "disk"; "" where it is not about one of them.
        needed: bytes that the copies need; None where it is not about bytes.
        available: bytes that there are; None where that is not known.
    """

    def __init__(self, message: str, *, pool: str = "", needed: int | None = None, available: int | None = None) -> None:
        super().__init__(message)
        self.pool = pool
        self.needed = needed
        self.available = available


@dataclass(frozen=True)
class NeededValue:
    """A tensor that must be resident together with others, which exceed the budget.

    Attributes:
        name: of the op that computes it.
        bytes: of its storage.
        shape, dtype: of the first tensor on it.
        module: path of the module of that op.
        source: its file and line.
        role: "read" or "computed" by the op that runs then, "gradient", "output", or "retained" for later.
    """

    name: str
    bytes: int
    shape: tuple[int, ...]
    dtype: str
    module: str
    source: str
    role: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.module, self.source) if part)
        form = f"{self.dtype}{list(self.shape)}" if self.dtype else "no tensor"
        return f"{self.name} ({form}, {self.bytes:,} bytes, {self.role}{', ' + where if where else ''})"


class InfeasibleBudgetError(ValueError):
    """No schedule was found within the budget.

    Attributes:
        budget: the budget in bytes.
        minimum: the least budget, in bytes, for which a schedule was found.
        bottleneck: name of the op that sets the minimum.
        proven: True if no schedule can exist within the budget, False if none was found in the time.
        inputs: the infeasible form of input, by place, if several forms were planned; else None.
        values: what is needed at once and exceeds the budget, the largest first; without any one of them the others would not.
            If ``proven``, in every schedule; else in the one with the least peak that was found. Empty where that is not known.
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
        values: tuple[NeededValue, ...] = (),
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.minimum = minimum
        self.bottleneck = bottleneck
        self.proven = proven
        self.inputs = inputs
        self.values = values

    def of_form(self, inputs: Mapping[str, str], suffix: str = "") -> InfeasibleBudgetError:
        """This error, with the form of input it is about in its message, and ``suffix`` at the end."""
        return InfeasibleBudgetError(
            f"for inputs of the form {format_inputs(inputs)}, {self}{suffix}",
            budget=self.budget,
            minimum=self.minimum,
            bottleneck=self.bottleneck,
            proven=self.proven,
            inputs=inputs,
            values=self.values,
        )


class EagerStepError(RuntimeError):
    """The model's own step fails when it is run several times, so there is nothing to compare a planned step with.

    Attributes:
        step: number of the step that failed, from 1.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class VerificationError(RuntimeError):
    """The step of a new plan was run, and does not leave what eager leaves or takes more than the budget; or it cannot be run.

    Attributes:
        schedule: the schedule.
        differences: names of what differs from eager, as in "step 1: gradient of lm_head.weight".
        measured_peak_bytes: the peak of the step when it ran; None if it did not.
        budget_bytes: the budget.
    """

    def __init__(
        self,
        message: str,
        *,
        schedule: object,
        budget_bytes: int,
        differences: tuple[str, ...] = (),
        measured_peak_bytes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.schedule = schedule
        self.differences = differences
        self.measured_peak_bytes = measured_peak_bytes
        self.budget_bytes = budget_bytes


class AuditError(RuntimeError):
    """While a planned model trains, its forward was recorded once more and is not the planned one.

    Attributes:
        model: name of the model's class.
        differences: what differs, and where: operators, constants, outputs, what is left behind in Python state.
    """

    def __init__(self, message: str, *, model: str, differences: tuple[str, ...]) -> None:
        super().__init__(message)
        self.model = model
        self.differences = differences


class ExportError(ValueError):
    """A model or schedule cannot be exported to a form.

    Attributes:
        form: name of the form.
        names: the modules that prevent it, or the forms that exist.
    """

    def __init__(self, message: str, *, form: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.form = form
        self.names = names


class RegionError(ValueError):
    """Regions cannot be planned: no module has that name, one lies inside another, or the step does not call one.

    Attributes:
        names: the regions concerned, or the names that were possible.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class AlreadyAppliedError(ValueError):
    """The module already has a schedule applied."""


class NotAppliedError(ValueError):
    """``remove_schedule`` was called on a module without a schedule."""


class TransformError(RuntimeError):
    """A planned module was called inside a ``torch.func`` transform, ``torch.export`` or ``torch.jit.trace``."""


class ShardedError(RuntimeError):
    """A planned module was called while its parameters are DTensors.

    Attributes:
        names: full names of these parameters.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class BackwardError(RuntimeError):
    """The backward of a planned module cannot run."""


class BackwardTwiceError(BackwardError):
    """A second backward ran through the same forward, without ``retain_graph=True`` in the first."""


class DoubleBackwardError(BackwardError):
    """Gradients of gradients (``create_graph=True``) were requested; a plan covers one forward and one backward."""


class ChangedInBetweenError(BackwardError):
    """A tensor that the backward reads was changed in place after the forward.

    Attributes:
        names: the changed parameters, buffers, inputs and outputs.
    """

    def __init__(self, message: str, *, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class SharedCastError(BackwardError):
    """Two calls share casts of their parameters, and one backward runs through both."""


class MissingGradientError(BackwardError):
    """Gradients arrived at some outputs only, and what PyTorch does then is not known.

    Attributes:
        outputs: places of the outputs without a gradient, as in "['logits']".
    """

    def __init__(self, message: str, *, outputs: tuple[str, ...]) -> None:
        super().__init__(message)
        self.outputs = outputs


class OutputHookError(BackwardError):
    """A hook on an output, or its ``retain_grad()``, sees less of its gradient than in eager.

    Attributes:
        output: place of the output, as in "['logits']".
    """

    def __init__(self, message: str, *, output: str) -> None:
        super().__init__(message)
        self.output = output


class UnexpectedGradientError(BackwardError):
    """A gradient arrived at an output that the planned loss sends none to, or after the backward had begun.

    Attributes:
        output: place of the output, as in "['logits']".
    """

    def __init__(self, message: str, *, output: str) -> None:
        super().__init__(message)
        self.output = output
