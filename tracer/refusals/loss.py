"""Refusals of losses from which no backward can start."""

from __future__ import annotations

from typing import Any

import torch

from remat_planner.tracer.errors import DataDependentError, LossError, LossRaisedError


def refuse_loss(loss: Any, name: str) -> None:
    """Refuse what is no differentiable scalar; ``name`` says whose loss it is.

    Raises:
        LossError: ``loss`` is no tensor, has not one element, is complex, or is detached.
    """
    if not isinstance(loss, torch.Tensor):
        raise LossError(f"{name} is a {type(loss).__name__}: return a tensor with one element", shape=None)
    if loss.numel() != 1:
        raise LossError(
            f"{name} has shape {list(loss.shape)}, and a backward starts from one number. Reduce it (.mean() or .sum())",
            shape=tuple(loss.shape),
        )
    if loss.is_complex():
        raise LossError(
            f"{name} is complex, and a backward starts from a real number. Take .abs() or .real", shape=tuple(loss.shape)
        )
    if not loss.requires_grad:
        raise LossError(
            f"{name} depends on nothing that requires a gradient: it is detached. Compute it from the model's outputs with "
            "torch's operators, without detach() or no_grad()",
            shape=tuple(loss.shape),
        )


def loss_arguments_error(required: int) -> LossError:
    """For a loss that needs more arguments than it can get."""
    return LossError(
        f"the loss needs {required} arguments: make it a function of the model's output, or of the output and the batch "
        "(loss=lambda output, batch: ...), which is what the model is called with",
        shape=None,
    )


def loss_raised_error(error: Exception, source: str) -> LossRaisedError:
    """For an exception of the loss's own code."""
    return LossRaisedError(
        f"{source or 'the loss'}: the loss raised {type(error).__name__} on the model's output: {str(error).rstrip('.')}. "
        "If its targets are of another batch, let it take the step's own, loss=lambda output, batch: ..., where batch is what "
        "the model is called with",
        source=source,
    )


def optimizer_in_loss_error(optimizer: str) -> LossError:
    """For a loss that steps an optimizer, which planning would do for real."""
    return LossError(
        f"the loss steps an optimizer ({optimizer}): planning calls the loss, and leaves everything as it was. Step it in the "
        "training loop, and leave that out of what plan(..., loss=...) gets",
        shape=None,
    )


def loss_of_no_output_error() -> LossError:
    """For a loss that sends no gradient to the model."""
    return LossError(
        "the loss sends a gradient to no output of the model, since it does not depend on them. Compute it from what the model "
        "returns",
        shape=(),
    )


def loss_reads_value_error(error: DataDependentError) -> DataDependentError:
    """``error``, raised inside the caller's loss, in the terms of a loss."""
    return DataDependentError(
        f"{error.source or 'the loss'}: the loss reads a value, or makes a tensor whose size depends on one "
        f"({error.operator}), and values are unknown while the step is planned. Weight the terms instead "
        "of selecting them (loss * mask, ignore_index), and read values after the backward",
        source=error.source,
        operator=error.operator,
    )
