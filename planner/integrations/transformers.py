"""Hugging Face Trainer: ``Trainer(model, arguments, callbacks=[TrainerBudget("8GB")])``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from remat_planner.planner.first_step import budgeted_in_place


class TrainerBudget(TrainerCallback):
    """Trains the Trainer's model within ``budget`` bytes.

    The model is planned at its first training step, with the batch, the precision and the loss of that step; leave
    ``gradient_checkpointing`` off. The model object stays, and gets its own forward back when training ends.

    Args:
        budget: bytes at the peak of one training step, as in ``remat_planner.plan``.
        options: as for ``remat_planner.budgeted``: ``optimizer="adamw"`` counts its state too.
    """

    def __init__(self, budget: int | str, **options: Any) -> None:
        self.budget, self.options = budget, options
        self._remove: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Replace the forward of ``kwargs["model"]``."""
        self._remove()
        self._remove = budgeted_in_place(kwargs["model"], self.budget, **self.options)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Give the model its own forward back."""
        self._remove()
