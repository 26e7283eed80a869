"""Refusals of a call's arguments, before the model runs on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from remat_planner.tracer.errors import InputsDoNotFitError
from remat_planner.tracer.joint import can_be_input, computes_as_plain, flatten_inputs, is_of_pytorch
from remat_planner.tracer.refusals.layouts import refuse_input_layout


def refuse_no_call(args: Any, kwargs: Any) -> None:
    """Refuse what are no arguments of a call.

    Raises:
        InputsDoNotFitError: ``args`` is no tuple (a lone tensor would be taken apart into its rows), or ``kwargs`` no mapping.
    """
    if not isinstance(args, (tuple, list)):
        raise InputsDoNotFitError(
            f"args is a {type(args).__name__}: pass the positional inputs as a tuple, `(x,)` for one input", source=""
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputsDoNotFitError(f"kwargs is a {type(kwargs).__name__}: pass the named inputs as a dictionary", source="")


def refuse_call(args: Any, kwargs: Any) -> None:
    """Refuse arguments whose tensors a capture would not find, or would find as others.

    Raises:
        InputsDoNotFitError: they are none (``refuse_no_call``), or an argument is an object with tensors inside in whose places
            no others can be put, a tensor of a subclass that computes otherwise, or one that is not strided.
    """
    refuse_no_call(args, kwargs)
    for leaf in flatten_inputs(tuple(args), kwargs or {})[0]:
        if isinstance(leaf, torch.Tensor):
            refuse_input_layout(leaf)
        if isinstance(leaf, torch.Tensor) and not (is_of_pytorch(type(leaf)) or computes_as_plain(type(leaf))):
            kind = type(leaf).__qualname__
            raise InputsDoNotFitError(
                f"an input is a {kind}, a subclass of torch.Tensor that changes what functions of torch compute, and a "
                "captured step computes on plain tensors. Pass a plain one (x.as_subclass(torch.Tensor)), or plan by regions "
                "that get plain ones",
                source="",
            )
        if not isinstance(leaf, torch.Tensor) and not can_be_input(leaf):
            raise InputsDoNotFitError(
                f"an input is a {type(leaf).__name__} with tensors inside, in a set or where no others can be put, and a "
                "capture would take them for constants. Pass the tensors themselves, in tuples, lists or dictionaries "
                "(`model(**batch)`)",
                source="",
            )
