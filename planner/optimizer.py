"""Bytes of optimizer state, found by letting the optimizer take one step on stand-ins for the parameters.

No formula per optimizer: whatever class it is, its own code makes its state. The stand-ins are on the meta device, so the
state of a 70B model is counted without its memory; an optimizer that reads numbers out of tensors steps on real zeros, one
parameter at a time.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from planner.errors import OptimizerError


def optimizer_state_bytes(optimizer: str | Optimizer, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of the state that ``optimizer`` keeps from one step to the next.

    Args:
        optimizer: the name of a class in ``torch.optim`` in any case ("adamw", with its default settings), or an instance,
            whose own parameter groups and settings count.
        parameters: the model's parameters, for a name; those that need no gradient have no state.

    Raises:
        OptimizerError: an unknown name, or an optimizer that cannot step on gradients alone.
    """
    if not isinstance(optimizer, Optimizer):
        optimizer = _by_name(optimizer)([p for p in parameters if p.requires_grad])  # type: ignore[call-arg]
    total = 0
    for group in optimizer.param_groups:
        # Equal parameters have equal state: one stand-in for each form.
        forms = Counter((p.shape, p.dtype) for p in group["params"] if p.requires_grad)
        total += sum(count * _state_bytes(optimizer, group, shape, dtype) for (shape, dtype), count in forms.items())
    return total


def _state_bytes(optimizer: Optimizer, group: dict[str, Any], shape: torch.Size, dtype: torch.dtype) -> int:
    failure: Exception | None = None
    for device in ("meta", "cpu"):
        stand_in = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        stand_in.grad = torch.zeros_like(stand_in)
        stepping = copy.copy(optimizer)
        stepping.state = defaultdict(dict)
        stepping.param_groups = [{**group, "params": [stand_in]}]
        try:
            stepping.step()
        except Exception as error:  # whatever the optimizer's own code raises
            failure = error
            continue
        return sum(t.numel() * t.element_size() for t in stepping.state[stand_in].values() if isinstance(t, torch.Tensor))
    raise OptimizerError(
        f"the state of {type(optimizer).__name__} cannot be counted: one step on a parameter of shape {tuple(shape)} failed "
        f"({type(failure).__name__}: {failure}). Plan without the optimizer, and lower the budget by its state."
    ) from failure


def _by_name(name: str) -> type[Optimizer]:
    known = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if name.lower() not in known:
        raise OptimizerError(
            f"no optimizer is named {name!r}: choose one of {', '.join(sorted(known))}, or pass the instance you train with"
        )
    return known[name.lower()]
