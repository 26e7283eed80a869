"""Several forms of input to plan for at once: what is given for each, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import ShapesError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning.call_guards import BoundSignature
from remat_planner.planner.planning.signatures import input_signature
from remat_planner.planner.planning.step import Step

_EXPECTED = (
    "each is a tensor, a tuple of positional inputs, a dict of named ones, or a pair of both, ((x,), {'mask': mask}), as the "
    "model is called in training"
)


@dataclass(frozen=True)
class Form:
    """One form of input: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def is_that_of(self, step: Step) -> bool:
        """Whether a call with these inputs runs the step that was captured."""
        joint = step.joint
        signature = BoundSignature(joint, joint.model)
        state, inputs = signature.state(), signature.inputs(*pytree.tree_flatten((self.args, self.kwargs)))
        return state is not None and inputs is not None and signature.holds(state, inputs, joint.autocast)


def forms_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Sequence[Any]) -> tuple[Form, ...]:
    """The form of ``args`` and ``kwargs``, where there are any, and those of ``shapes``.

    Raises:
        ShapesError: there is none, or one of them is not what a model can be called with.
    """
    if isinstance(shapes, str | torch.Tensor | Mapping) or not isinstance(shapes, Sequence):
        raise ShapesError(f"shapes is a {type(shapes).__name__}, not a list of inputs: {_EXPECTED}", number=None)
    forms = [Form(tuple(args), dict(kwargs))] if args or kwargs else []
    forms += [_form(number, inputs) for number, inputs in enumerate(shapes)]
    if not forms:
        raise ShapesError(f"shapes is an empty list: give the inputs of at least one form; {_EXPECTED}", number=None)
    return tuple(forms)


def _form(number: int, inputs: Any) -> Form:
    if isinstance(inputs, torch.Tensor):
        form = Form((inputs,), {})
    elif isinstance(inputs, Mapping):
        form = Form((), dict(inputs))
    elif isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
        form = Form(inputs[0], dict(inputs[1]))
    elif isinstance(inputs, tuple | list):
        form = Form(tuple(inputs), {})
    else:
        raise ShapesError(f"shapes[{number}] is a {type(inputs).__name__}: {_EXPECTED}", number=number)
    if not all(isinstance(name, str) for name in form.kwargs):
        raise ShapesError(f"shapes[{number}] has names of inputs that are no words: {_EXPECTED}", number=number)
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((form.args, form.kwargs))):
        given = format_inputs(input_signature(form.args, form.kwargs)) or "nothing"
        raise ShapesError(
            f"shapes[{number}] has no tensor ({given}), so no shape: give inputs, torch.zeros(8, 128) and not (8, 128); "
            f"{_EXPECTED}",
            number=number,
        )
    return form
