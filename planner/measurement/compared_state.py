"""All that ``verify`` compares with eager after each training step. A new comparison is a new line in ``compared_state``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from remat_planner.planner.measurement.kept_state import KeptState
from remat_planner.tracer.joint import flatten
from remat_planner.tracer.python_state import ABSENT, Change, Place, Snapshot, is_plain, tensor_label, walk

Named = tuple[str, Any]


_TENSOR = re.compile(r"tensor 0x[0-9a-f]+")


def compared_state(
    model: nn.Module,
    state: KeptState,
    inputs: Sequence[torch.Tensor],
    arguments: Snapshot,
    output: Any,
    loss: torch.Tensor | None,
) -> Iterator[Named]:
    """What a step of ``model`` leaves, by name: tensors, None where there is no gradient, and values of Python.

    Of what was there before, only what has changed is named. The first word of a name is its kind; ``ToleranceCheck`` takes the
    tensors of one kind together.

    Args:
        model: the model.
        state: the state before the first step.
        inputs: the tensors that the step was given.
        arguments: the arguments that it was given, as they were before.
        output: its output.
        loss: its loss, if it has one.
    """
    names = {tensor_label(p): name for name, p in model.named_parameters()}  # under which optimizers keep their state
    for name, value in _compared(model, state, inputs, arguments, output, loss):
        yield _TENSOR.sub(lambda found: names.get(found[0], found[0]), name), value


def _compared(
    model: nn.Module,
    state: KeptState,
    inputs: Sequence[torch.Tensor],
    arguments: Snapshot,
    output: Any,
    loss: torch.Tensor | None,
) -> Iterator[Named]:
    known = state.identities()
    leaves, tree = flatten(output)
    yield "loss", loss
    yield "output (structure)", tree.spec
    for k, leaf in enumerate(leaves):
        yield from _named(f"output {k}", leaf, known)
    yield from ((f"gradient of {name}", p.grad) for name, p in model.named_parameters())
    leaf_inputs = [(k, tensor) for k, tensor in enumerate(inputs) if tensor.requires_grad and tensor.is_leaf]
    yield from ((f"gradient of input {k}", tensor.grad) for k, tensor in leaf_inputs)
    yield from state.gradients_outside()
    yield from state.changed_tensors()
    yield from ((f"{name} (requires a gradient)", flag) for name, flag in state.changed_flags())
    yield from _changes("state", state.changed_objects(), known)
    yield from _changes("input", arguments.changes(), known)
    yield from state.generators.states().items()


def _changes(kind: str, changes: Collection[Change], known: Collection[int]) -> Iterator[Named]:
    """What the objects that have changed hold instead."""
    for change in changes:
        holder = change.holder
        if not holder.has_places:
            yield f"{kind} {holder.place.label}", change.after
            continue
        for key in change.keys:
            value = change.after.get(key, ABSENT)
            if not _is_the_projects(value):
                yield from _named(f"{kind} {holder.name_of(key)}", value, known)


def _named(name: str, value: Any, known: Collection[int]) -> Iterator[Named]:
    """``value`` in a form that is the same in another run: an object that is made by the step is compared by its content.

    ``known`` are the identities of the objects that were there before.
    """
    if isinstance(value, torch.Tensor):
        yield name, value
        yield f"{name} (requires a gradient)", value.requires_grad
        return
    yield name, _token(value, known)
    for holder in walk([(Place(name, value, "object"), value)], None, set(known)):
        for key, entry in holder.entries().items():
            if not holder.has_places:
                yield f"{holder.place.label} {key}", entry
            elif isinstance(entry, torch.Tensor):
                yield from _named(holder.name_of(key), entry, known)
            else:
                yield holder.name_of(key), _token(entry, known)


def _token(value: Any, known: Collection[int]) -> Any:
    """A value of Python without what it holds."""
    if is_plain(value) or value is ABSENT:
        return value
    return ("an object from before", id(value)) if id(value) in known else type(value)


def _is_the_projects(value: Any) -> bool:
    """Whether an object is this project's own: the forward of a planned region, in the place of the module's."""
    return str(type(value).__module__).partition(".")[0] == "remat_planner"
