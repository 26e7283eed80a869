"""Recording a ``tracer.functions.OperatorCall``: one operator for what it allocates, and views of that and of arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remat_planner.tracer.functions import OperatorCall, record_call


def recorded_results(call: OperatorCall, tensors: Sequence[torch.Tensor], run: Callable[..., Any]) -> list[torch.Tensor]:
    """The dense tensors among the results of ``call``, in order; ``run(operator, args, kwargs)`` records an operator."""
    own = run(record_call, (list(tensors), call.number), {}, name=call.name) if call.sampled.own else []
    results: list[torch.Tensor] = []
    for place in call.sampled.places:
        assert place is not None
        base = (own if place.own else tensors)[place.index]
        if place.view is not None:
            size, stride, offset = place.view
            results.append(run(torch.ops.aten.as_strided.default, (base, size, stride, base.storage_offset() + offset), {}))
        elif place.own and not any(base is result for result in results):
            results.append(base)
        else:
            results.append(run(torch.ops.aten.detach.default, (base,), {}))
    return results
