"""Does the planned module train with eager's bits within the plan's bytes? Answered by running both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.apply import apply_schedule, is_applied, remove_schedule
from planner.meter import measure_peak
from planner.step import settings_of
from schedules import Schedule
from tracer.state import random_state_kept, swapped
from tracer.trees import flatten

_STEPS = 2  # the second one starts from updated buffers, another random state, and gradients to accumulate onto


@dataclass(frozen=True)
class Verification:
    """What running the real steps showed.

    Attributes:
        identical: loss, outputs, every gradient, every buffer and the random state are eager's, bit for bit.
        measured_peak_bytes: constants as planned, plus the highest bytes above them that one step really took.
        predicted_peak_bytes: what the schedule says of forward and backward; the optimizer's step is not run.
        budget_bytes: what the schedule was planned for.
        differences: what differs from eager, one name each, as in "step 1: gradient of lm_head.weight".
        nondeterministic: what eager itself does not compute the same way twice; left out of the comparison.
    """

    identical: bool
    measured_peak_bytes: int
    predicted_peak_bytes: int
    budget_bytes: int
    differences: tuple[str, ...] = ()
    nondeterministic: tuple[str, ...] = ()

    @property
    def within_budget(self) -> bool:
        """Whether the measured step stayed within the budget."""
        return self.measured_peak_bytes <= self.budget_bytes


def verify(
    model: nn.Module,
    schedule: Schedule,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Verification:
    """Run two training steps of ``model`` in eager, twice, and by ``schedule``, and compare; then measure the peak of a
    planned step.

    The model is left as it was: gradients, buffers, inputs and random generators. Its parameters are never changed.

    Args:
        model: what the schedule was planned for, planned or not.
        schedule: the plan to check.
        args: positional inputs.
        kwargs: named inputs.
        loss: output -> scalar, as given to ``plan``; needed only where the schedule was loaded from a file and planned with
            one.

    Raises:
        schedules.StaleScheduleError: the schedule is for another model or other inputs.
    """
    model = remove_schedule(model) if is_applied(model) else model
    kwargs = dict(kwargs or {})
    loss = loss or settings_of(schedule).loss
    planned = apply_schedule(model, schedule, loss=loss)
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    with _left_as_it_was(model, inputs) as restart:
        eager = {name: _cloned(tensor) for name, tensor in _trial(model, model, args, kwargs, loss, restart)}
        unsteady = _differing(eager, _trial(model, model, args, kwargs, loss, restart))
        differences = tuple(
            name for name in _differing(eager, _trial(planned, model, args, kwargs, loss, restart)) if name not in unsteady
        )
        del eager
        restart()
        peak = measure_peak(_one_step(planned, args, kwargs, loss), _device(model))
    return Verification(
        identical=not differences,
        measured_peak_bytes=schedule.graph.constant_bytes + peak,
        predicted_peak_bytes=int(schedule.simulation.bytes.max(initial=schedule.graph.constant_bytes)),
        budget_bytes=schedule.budget,
        differences=differences,
        nondeterministic=unsteady,
    )


Named = tuple[str, torch.Tensor | None]


def _trial(
    called: nn.Module,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[[Any], torch.Tensor] | None,
    restart: Callable[[], None],
) -> Iterator[Named]:
    """Everything that the training steps compute, by name, when ``called`` stands for ``model``; to be looked at one by one."""
    restart()
    args, kwargs = _detached(args, kwargs)
    for number in range(1, _STEPS + 1):
        output = called(*args, **kwargs)
        value = _backward(output, loss)
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        named: dict[str, torch.Tensor | None] = {"loss": value}
        named |= {f"output {k}": leaf for k, leaf in enumerate(flatten(output)[0]) if isinstance(leaf, torch.Tensor)}
        named |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
        named |= {f"gradient of input {k}": leaf.grad for k, leaf in enumerate(inputs) if leaf.requires_grad}
        named |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
        named |= {f"random state {k}": state for k, state in enumerate(_generator_states())}
        for name, tensor in named.items():
            yield f"step {number}: {name}", tensor


def _one_step(
    called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Callable[[Any], torch.Tensor] | None
) -> Callable[[], Any]:
    args, kwargs = _detached(args, kwargs)

    def step() -> Any:
        output = called(*args, **kwargs)
        return output, _backward(output, loss)

    return step


def _backward(output: Any, loss: Callable[[Any], torch.Tensor] | None) -> torch.Tensor | None:
    """Run the backward as training code does, from the loss; without one, send a gradient to every differentiable output."""
    value = loss(output) if loss is not None else _own_loss(output)
    if value is not None:
        value.backward()  # type: ignore[no-untyped-call]
        return value
    reached = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    torch.autograd.backward(reached, [torch.empty_like(leaf).fill_(1 / (k + 1)) for k, leaf in enumerate(reached)])
    return None


def _own_loss(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.numel() == 1 else None
    value = getattr(output, "loss", None)
    if value is None and isinstance(output, Mapping):
        value = output.get("loss")
    return value if isinstance(value, torch.Tensor) else None


def _cloned(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _differing(expected: Mapping[str, torch.Tensor | None], found: Iterator[Named]) -> tuple[str, ...]:
    return tuple(name for name, tensor in found if not _same_bits(expected[name], tensor))


def _same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


@contextmanager
def _left_as_it_was(model: nn.Module, inputs: list[torch.Tensor]) -> Iterator[Callable[[], None]]:
    """Yield a function that puts gradients, buffers, inputs and random generators back to the start; at the end all is as
    before.
    """
    gradients = [(p, p.grad) for p in model.parameters()]
    contents = [(t, t._version, t.detach().clone()) for t in (*model.buffers(), *inputs)]

    def restore() -> None:
        with torch.no_grad():
            for tensor, version, content in contents:
                if tensor._version != version or not _same_bits(tensor, content):
                    tensor.copy_(content)

    with random_state_kept(), swapped(model, {}):
        start = _generator_states()

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


def _detached(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs cut off from the caller's graph, of the same form and content."""
    known: dict[int, torch.Tensor] = {}

    def detach(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known.setdefault(id(leaf), leaf.detach().requires_grad_(leaf.requires_grad))

    return pytree.tree_map(detach, (tuple(args), kwargs))


def _generator_states() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def _set_generator_states(states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
