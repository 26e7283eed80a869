"""The captured step of one region: what the model's step calls it with, and how its gradients arrive."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer import Joint, capture
from remat_planner.tracer.errors import InputsDoNotFitError
from remat_planner.tracer.joint import flatten_inputs, flatten_tree, tensors_inside
from remat_planner.tracer.record import EveryOutput

GradientLayout = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides (elements) of a gradient."""

GradientLayouts = Mapping[int, GradientLayout]
"""Output leaf -> layout of the gradient that arrives there, where it is not laid out as the output."""


@dataclass(frozen=True)
class CapturedRegion:
    """A block as the step calls it with one form of input.

    Attributes:
        name: full name of its module.
        form: number of the form, 0 for that of its first call.
        block: the module.
        joint: its captured step; ``joint.model`` is the block without its hooks.
        parameters: signature of the block's parameters and buffers in the captured call.
        inputs: signature of the inputs of that call.
        calls: how many times the step calls it so; 0 for one that random draws have left out, which is planned as its like is.
        gradient_layouts: of the gradients that arrive in the captured step.
    """

    name: str
    form: int
    block: nn.Module
    joint: Joint
    parameters: Mapping[str, str]
    inputs: Mapping[str, str]
    calls: int
    gradient_layouts: GradientLayouts

    @property
    def label(self) -> str:
        """The name of the block and the form."""
        return region_label(self.name, self.form)


def region_label(name: str, form: int) -> str:
    """The name of the block ``name``, with the number of the form of its calls where it is not the first."""
    return f"{name} (form {form + 1})" if form else name


def capture_region(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gradient_layouts: GradientLayouts) -> Joint:
    """The step of ``block`` on these inputs. Arguments that are no tensors (a cache, a configuration) stay as they are.

    Raises:
        CaptureError: the block cannot be captured, or stores tensors in an argument.
    """
    leaves, spec = flatten_tree((args, kwargs))
    copies = [leaf if isinstance(leaf, torch.Tensor) or tensors_inside(leaf) else copy.deepcopy(leaf) for leaf in leaves]
    copied_args, copied_kwargs = pytree.tree_unflatten(copies, spec)
    joint = capture(block, copied_args, copied_kwargs, loss=EveryOutput(gradient_layouts))
    _refuse_written_arguments(joint, copied_args, copied_kwargs)
    kept = zip(joint.constant_leaves, flatten_inputs(args, kwargs)[0], strict=True)
    return replace(joint, constant_leaves=tuple(None if constant is None else leaf for constant, leaf in kept))


def _refuse_written_arguments(joint: Joint, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse tensors that the region hands on inside an argument: the region that reads them would not see them there."""
    start = joint.returned
    for effect in joint.effects.made:
        leaves = joint.outputs[start : start + effect.leaves]
        start += effect.leaves
        if effect.place.kind == "arguments" and any(leaf.node is not None for leaf in leaves):
            _, key = effect.place.steps[0]
            argument = args[key] if effect.place.start == "args" else kwargs[key]
            raise InputsDoNotFitError(
                f"the forward puts tensors into an argument, a {type(argument).__name__}, where the next region does not see "
                "them. Call the model without it (a key-value cache: use_cache=False)",
                source="",
            )
