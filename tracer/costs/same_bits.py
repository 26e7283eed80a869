"""Whether an operator computes its results with the same bits part by part as all at once, tried on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.costs.conditions import Conditions, conditions
from remat_planner.tracer.costs.measure import undisturbed
from remat_planner.tracer.operators import op_call

_known: dict[tuple[Conditions, str, str], bool] = {}


def same_bits_in_parts(node: fx.Node, way: str, parts: Callable[..., Sequence[torch.Tensor | None]]) -> bool:
    """Whether ``parts``, given the arguments of the call ``node``, returns the results of the call.

    A call that does not repeat its own results has none to compare with: forms and strides decide. The answer is remembered
    within the process, for each call and ``way``, the name of what ``parts`` does.

    Raises:
        DeviceNotAtHandError: nothing can run on the device of its tensors.
    """
    call = op_call(node)
    key = (conditions(call.device), call.key, way)
    if key not in _known:
        with undisturbed([call.device]) as samples:
            args, kwargs = samples.make(call)
            whole, again = (_results(call.target(*args, **kwargs)) for _ in range(2))
            in_parts = parts(*args, **kwargs)
            _known[key] = _same_forms(whole, in_parts) and (_same(whole, in_parts) or not _same(whole, again))
    return _known[key]


def _results(returned: Any) -> tuple[torch.Tensor | None, ...]:
    return (returned,) if isinstance(returned, torch.Tensor) else tuple(returned)


def _same_forms(results: Sequence[Any], others: Sequence[Any]) -> bool:
    return [_form(result) for result in results] == [_form(other) for other in others]


def _form(result: torch.Tensor | None) -> Any:
    return None if result is None else (result.shape, result.stride(), result.dtype)


def _same(results: Sequence[torch.Tensor | None], others: Sequence[torch.Tensor | None]) -> bool:
    return all(
        result is None or other is None or torch.equal(result, other) for result, other in zip(results, others, strict=True)
    )
