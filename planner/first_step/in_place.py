"""``budgeted`` for trainers that keep the model object: its ``forward`` is replaced, the object stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from remat_planner.planner.errors import TransformError
from remat_planner.planner.first_step.budgeted import budgeted

_FORWARD = "forward"


def budgeted_in_place(model: nn.Module, budget: int | str, **options: Any) -> Callable[[], None]:
    """Let ``model`` itself train as ``budgeted(model, budget, **options)`` does.

    Returns:
        A function that gives the model its own forward back.

    Raises:
        TransformError: the model has forward or backward hooks of its own, which would run twice.
        BudgetError, AlreadyAppliedError, TypeError: as for ``budgeted``.
    """
    hooks = (model._forward_hooks, model._forward_pre_hooks, model._backward_hooks, model._backward_pre_hooks)
    if any(hooks):
        raise TransformError(
            f"this {type(model).__name__} has hooks of its own, which would run in the planned step and around it: remove "
            "them, or train remat_planner.budgeted(model, budget), which is another object"
        )
    planned = budgeted(model, budget, **options)
    attributes = vars(model)
    before = attributes.get(_FORWARD)  # a wrapper of the trainer's

    def own() -> None:
        if before is None:
            attributes.pop(_FORWARD, None)
        else:
            attributes[_FORWARD] = before

    def forward(*args: Any, **kwargs: Any) -> Any:
        own()  # the planner captures the model as it was, and calls it in evaluation mode
        try:
            return planned(*args, **kwargs)
        finally:
            attributes[_FORWARD] = forward

    attributes[_FORWARD] = forward
    return own
