"""What can go wrong between a model and its schedule. Every error says what to do next and carries its data."""

from __future__ import annotations


class BudgetError(ValueError):
    """A budget that is no number of bytes: "40XB", zero, negative, NaN."""


class BatchError(ValueError):
    """Inputs without a batch dimension to search."""


class OptimizerError(ValueError):
    """An optimizer whose state cannot be counted: an unknown name, or one that needs more than gradients to step."""


class InfeasibleBudgetError(ValueError):
    """No schedule was found within the budget.

    Attributes:
        budget: the bytes asked for.
        minimum: the least budget, in bytes, for which a schedule was found.
        bottleneck: name of the op that sets the minimum.
        proven: True where no schedule can exist within the budget, False where none was found in the time.
    """

    def __init__(self, message: str, *, budget: int, minimum: int, bottleneck: str, proven: bool) -> None:
        super().__init__(message)
        self.budget = budget
        self.minimum = minimum
        self.bottleneck = bottleneck
        self.proven = proven
