"""Why a call is not the captured one although its tensors have the captured forms: what differs, by name, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from remat_planner.planner.planning.call_guards import BoundSignature
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.tracer.joint import InputTree
from remat_planner.tracer.record import Switches, changed_switches, hooks_of

_MOST_CHARACTERS = 60  # of a value


class Difference(NamedTuple):
    """Something that a capture takes as constant and that has changed.

    Attributes:
        what: it, in words.
        advice: how the step is captured only once.
    """

    what: str
    advice: str


@dataclass(frozen=True)
class CallNow:
    """A call as it is made.

    Attributes:
        args: positional inputs.
        kwargs: named inputs.
        leaves: of both.
        tree: how the leaves form them.
        autocast: what the ambient ``torch.autocast`` casts to, by device type.
        switches: the settings of torch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: Sequence[Any]
    tree: InputTree
    autocast: Mapping[str, str]
    switches: Switches


def differences_of(call: CallNow, signature: BoundSignature) -> list[Difference]:
    """What ``call`` has otherwise than the capture of ``signature``, whose tensors have the same forms."""
    found = [*_inputs(call, signature), *_python_values(signature), *_hooks(signature)]
    found += [
        Difference(text, "set it once, before planning") for text in changed_switches(signature.joint.switches, call.switches)
    ]
    tensors = signature.tensors()
    if tensors is None:
        found.append(Difference("the modes of modules, or their parameters", "train with one of them, or plan for each"))
        return found
    return found + _values_read(call, signature, tensors) + _same_inputs(call, signature, tensors)


def _inputs(call: CallNow, signature: BoundSignature) -> list[Difference]:
    changed = signature.changed_inputs(call.leaves)
    places = list(input_signature(call.args, call.kwargs))
    advice = "give numbers that change as tensors, torch.tensor(value), and other objects always the same"
    return [
        *(
            Difference(f"the input {places[position]} ({_short(before)}, now {_short(call.leaves[position])})", advice)
            for position, before in changed
        ),
        *(
            Difference(f"{', '.join(names)} of the input {places[position]}", advice)
            for position, names in signature.changed_objects(call.leaves)
        ),
    ]


def _python_values(signature: BoundSignature) -> list[Difference]:
    advice = (
        "keep numbers that change as tensors (torch.tensor(value)), and tensors in plain attributes, each in memory of its "
        "own, or in buffers (register_buffer)"
    )
    return [Difference(name, advice) for name in signature.changed_python_state()]


def _hooks(signature: BoundSignature) -> list[Difference]:
    if signature.has_captured_hooks():
        return []
    paths = dict.fromkeys(hook.path or "the model" for hook in (*signature.joint.hooks, *hooks_of(signature.model)))
    return [Difference(f"the hooks of {', '.join(paths)}", "register hooks once, before planning")]


def _values_read(call: CallNow, signature: BoundSignature, tensors: Sequence[torch.Tensor]) -> list[Difference]:
    joint = signature.joint
    buffers = tensors[len(joint.parameters) :]
    inputs = [call.leaves[position] for position in joint.input_leaves]
    advice = (
        "compute with the tensor instead of its number (no int(), float(), .item(); no branch on it), and instead of the rows "
        "that a mask chooses with all rows (torch.where)"
    )
    return [
        Difference(
            f"the {guard.kind} read at {guard.source or 'a line of the model'} ({_short(guard.expected)}, now {_short(value)})",
            advice,
        )
        for guard, value in joint.guards.differing(buffers, inputs)
    ]


def _same_inputs(call: CallNow, signature: BoundSignature, tensors: Sequence[torch.Tensor]) -> list[Difference]:
    inputs = [call.leaves[position] for position in signature.joint.input_leaves]
    if signature.has_same_inputs(tensors, inputs):
        return []
    return [Difference("which inputs are one tensor", "give one tensor twice always, or never (clone it)")]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
