"""One real training step of a model, and putting everything back that it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import own_part
from remat_planner.tracer.errors import StateReassignedError
from remat_planner.tracer.joint import flatten
from remat_planner.tracer.record import random_state_kept, swapped, without_autocast

Loss = Callable[[Any], torch.Tensor]


def one_step(
    called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Callable[[Any], torch.Tensor] | None
) -> Callable[[], Any]:
    """A function that runs forward, loss and backward of ``called`` once, and returns the output and the loss."""
    args, kwargs = detached(args, kwargs)

    def step() -> Any:
        output = called(*args, **kwargs)
        return output, run_backward(output, loss)

    return step


def run_backward(output: Any, loss: Callable[[Any], torch.Tensor] | None) -> torch.Tensor | None:
    """Run the backward as training code does: from the loss, outside of an ambient autocast; without a loss, send a gradient to
    every differentiable output.
    """
    value = loss(output) if loss is not None else _own_loss(output)
    if value is not None:
        with without_autocast():
            value.backward()  # type: ignore[no-untyped-call]
        return value
    reached = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    with without_autocast():
        torch.autograd.backward(reached, [torch.empty_like(leaf).fill_(1 / (k + 1)) for k, leaf in enumerate(reached)])
    return None


def _own_loss(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.numel() == 1 else None
    value = getattr(output, "loss", None)
    if value is None and isinstance(output, Mapping):
        value = output.get("loss")
    return value if isinstance(value, torch.Tensor) else None


def same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether the two are the same, bit for bit: a NaN equals itself, and -0.0 is not 0.0."""
    if one is None or other is None:
        return one is other
    one, other = own_part(one), own_part(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


@contextmanager
def left_as_it_was(model: nn.Module, inputs: list[torch.Tensor]) -> Iterator[Callable[[], None]]:
    """Yield a function that puts gradients, buffers, inputs and random generators back to the start; at the end all is as
    before.
    """
    gradients = [(p, p.grad) for p in model.parameters()]
    contents = [(t, t._version, t.detach().clone()) for t in (*model.buffers(), *inputs)]

    def restore() -> None:
        with torch.no_grad():
            for tensor, version, content in contents:
                if tensor._version != version or not same_bits(tensor, content):
                    tensor.copy_(content)

    with random_state_kept(), swapped(model, {}):
        start = generator_states()

        def restart() -> None:
            for p, _ in gradients:
                p.grad = None
            restore()
            _set_generator_states(start)

        try:
            yield restart
        finally:
            restore()
            for p, gradient in gradients:
                p.grad = gradient


def detached(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs cut off from the caller's graph, of the same form and content."""
    known: dict[int, torch.Tensor] = {}

    def detach(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known.setdefault(id(leaf), leaf.detach().requires_grad_(leaf.requires_grad))

    return pytree.tree_map(detach, (tuple(args), kwargs))


def generator_states() -> list[torch.Tensor]:
    """The state of the CPU's random generator and of each GPU's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def _set_generator_states(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def restored(model: nn.Module, inputs: list[torch.Tensor]) -> Iterator[Callable[[], None]]:
    """``left_as_it_was`` for models that put other tensors in the place of their buffers: outside of regions they may."""
    inside = True
    try:
        with left_as_it_was(model, inputs) as restart:
            yield restart
            inside = False
    except StateReassignedError:
        if inside:
            raise
