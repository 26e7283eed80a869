"""The argument ``shapes`` of ``plan``: several forms of input to plan for at once, each as the arguments of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from remat_planner.planner.errors import ShapesError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning.call_guards import BoundSignature
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.planner.planning.step import Step
from remat_planner.tracer.joint import flatten_inputs, tensor_inputs

_EXPECTED = (
    "each is a tensor, a tuple of positional inputs, a dict of named ones, or a pair of both, ((x,), {'mask': mask}), as the "
    "model is called in training"
)


@dataclass(frozen=True)
class InputForm:
    """One form of input: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def runs(self, step: Step) -> bool:
        """Whether a call with these inputs runs the captured ``step``."""
        joint = step.joint
        signature = BoundSignature(joint, joint.model)
        state, inputs = signature.state(), signature.inputs(*flatten_inputs(self.args, self.kwargs))
        if state is None or inputs is None:
            return False
        return signature.accepted(state, inputs, joint.autocast, joint.switches) is not None


def input_forms(args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Sequence[Any]) -> tuple[InputForm, ...]:
    """The form of ``args`` and ``kwargs``, if there are any, and those of ``shapes``.

    Raises:
        ShapesError: there are no forms, or the model cannot be called with one of ``shapes``.
    """
    if isinstance(shapes, str | torch.Tensor | Mapping) or not isinstance(shapes, Sequence):
        raise ShapesError(f"shapes is a {type(shapes).__name__}, not a list of inputs: {_EXPECTED}", number=None)
    forms = [InputForm(tuple(args), dict(kwargs))] if args or kwargs else []
    forms += [_input_form(number, inputs) for number, inputs in enumerate(shapes)]
    if not forms:
        raise ShapesError(f"shapes is an empty list: give the inputs of at least one form; {_EXPECTED}", number=None)
    return tuple(forms)


def _input_form(number: int, inputs: Any) -> InputForm:
    if isinstance(inputs, torch.Tensor):
        form = InputForm((inputs,), {})
    elif isinstance(inputs, Mapping):
        form = InputForm((), dict(inputs))
    elif isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
        form = InputForm(inputs[0], dict(inputs[1]))
    elif isinstance(inputs, tuple | list):
        form = InputForm(tuple(inputs), {})
    else:
        raise ShapesError(f"shapes[{number}] is a {type(inputs).__name__}: {_EXPECTED}", number=number)
    if not all(isinstance(name, str) for name in form.kwargs):
        raise ShapesError(f"shapes[{number}] has names of inputs that are not strings: {_EXPECTED}", number=number)
    if not tensor_inputs(form.args, form.kwargs):
        inputs_there = format_inputs(input_signature(form.args, form.kwargs)) or "nothing"
        raise ShapesError(
            f"shapes[{number}] has no tensor ({inputs_there}), so no shape: give inputs, torch.zeros(8, 128) and not (8, 128); "
            f"{_EXPECTED}",
            number=number,
        )
    return form
