"""One real training step of a model: forward, loss and backward, as training code runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs import Stopwatch
from remat_planner.tracer.joint import flatten, map_tensors, tensors_inside
from remat_planner.tracer.record import loss_of_output, loss_of_step, without_autocast

Loss = Callable[..., torch.Tensor]
"""output -> scalar, or (output, batch) -> scalar."""


def one_step(
    called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], loss: Loss | None, *, drop_outputs: bool = False
) -> Callable[[], Any]:
    """A function that runs forward, loss and backward of ``called`` once, and returns the output and the loss.

    With ``drop_outputs`` it drops the output once the loss is computed, and returns the loss alone.
    """
    args, kwargs = detached(args, kwargs)
    loss = loss_of_step(loss, args, kwargs)

    def step() -> Any:
        if drop_outputs:
            value = _loss_value(called(*args, **kwargs), loss)
            assert value is not None  # without a loss no plan drops its outputs
            with without_autocast():
                value.backward()  # type: ignore[no-untyped-call]
            return value
        output = called(*args, **kwargs)
        return output, run_backward(output, loss)

    return step


def seconds_of(step: Callable[[], Any], device: torch.device, *, copies: bool) -> float:
    """Seconds of ``step``; on a CPU without those in which other processes had it, but where it waits for ``copies``."""
    if device.type == "cpu" and not copies:
        stopwatch = Stopwatch()
        step()
        return stopwatch.seconds()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def run_backward(output: Any, loss: Loss | None, *, at_first_only: bool = False) -> torch.Tensor | None:
    """Run the backward as training code does: from ``loss(output)`` or the output's own loss, outside an ambient autocast.

    Without a loss, a gradient arrives at every differentiable output, or ``at_first_only`` of them, as where a step trains one
    of several heads. Returns the loss, or None.
    """
    value = _loss_value(output, loss)
    if value is not None:
        with without_autocast():
            value.backward()  # type: ignore[no-untyped-call]
        return value
    outputs = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    outputs = outputs[:1] if at_first_only else outputs
    with without_autocast():
        torch.autograd.backward(outputs, [torch.empty_like(leaf).fill_(1 / (k + 1)) for k, leaf in enumerate(outputs)])
    return None


def _loss_value(output: Any, loss: Loss | None) -> torch.Tensor | None:
    return loss(output) if loss is not None else loss_of_output(output)


def detached(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs without the caller's autograd history; they share its memory, and an input given twice stays one tensor.

    An object is copied where a tensor in it requires a gradient.
    """
    detached_of: dict[int, torch.Tensor] = {}

    def detach(tensor: torch.Tensor) -> torch.Tensor:
        return detached_of.setdefault(id(tensor), tensor.detach().requires_grad_(tensor.requires_grad))

    def detach_leaf(leaf: Any) -> Any:
        has_history = isinstance(leaf, torch.Tensor) or any(tensor.requires_grad for tensor in tensors_inside(leaf))
        return map_tensors(detach, leaf) if has_history else leaf

    return pytree.tree_map(detach_leaf, (tuple(args), kwargs))


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
