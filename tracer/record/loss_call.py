"""The two forms of a caller's loss: of the output alone, or of the output and the batch of the step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.refusals import loss_arguments_error

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def loss_of_step(
    loss: Callable[..., torch.Tensor] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[[Any], torch.Tensor] | None:
    """``loss`` as a function of the output, for a step with these inputs.

    A loss that needs two arguments gets the batch too: the positional inputs (one alone, or a tuple), the dict of the named
    ones, or a pair of both, without their autograd history.

    Raises:
        LossError: it needs more than two arguments, or none.
    """
    if loss is None or not (required := _required_arguments(loss)):
        return loss
    if required > 2:
        raise loss_arguments_error(required)
    if required == 1:
        return loss

    @functools.wraps(loss, updated=())
    def of_output(output: Any) -> torch.Tensor:
        return loss(output, batch)

    batch = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, _batch(args, dict(kwargs)))
    return of_output


def _required_arguments(loss: Callable[..., Any]) -> int:
    """The positional arguments without a default; 0 where the signature is not known."""
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return 0
    return sum(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    positional = args[0] if len(args) == 1 else args
    if not kwargs:
        return positional
    return (args, kwargs) if args else kwargs
