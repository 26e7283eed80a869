"""What autograd records in the place of a Function that fakes cannot run: one operator forward, one backward.

The operator returns changed arguments as copies, and here they are copied back, so that the recording shows every reader the
value that eager's reader finds. Results that lie in memory of an argument are views of it, as in eager.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remat_planner.tracer.functions.backward_call import BackwardCall
from remat_planner.tracer.functions.call import Call
from remat_planner.tracer.functions.forward_call import ForwardCall
from remat_planner.tracer.functions.operator import results_of

EnsureSampled = Callable[[Call], None]
"""Called with a call before it is recorded; raises where the call has no sample."""


def applied(call: ForwardCall, args: tuple[Any, ...], tensors: Sequence[torch.Tensor], ensure_sampled: EnsureSampled) -> Any:
    """Record ``call``, which has a sample: ``function.apply(*args)``, with ``tensors`` in ``args``."""
    returned = _StandIn.apply(call, tensors, ensure_sampled, *args)  # type: ignore[no-untyped-call]
    return returned if call.sampled.is_tuple else returned[0]


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: ForwardCall, tensors: Sequence[torch.Tensor], ensure_sampled: EnsureSampled, *_args: Any
    ) -> tuple[torch.Tensor | None, ...]:
        sampled = call.sampled
        results = results_of(call, tensors)
        for i, changed in zip(sampled.changed, results, strict=False):
            (tensors[i] if i in sampled.dirty else tensors[i].data).copy_(changed)
        own = results[len(sampled.changed) :]
        returned = tuple(None if place is None else place.of(tensors, own) for place in sampled.returned)
        ctx.set_materialize_grads(False)
        if sampled.dirty:
            ctx.mark_dirty(*[tensors[i] for i in sampled.dirty])
        if not_differentiable := [returned[i] for i in sampled.not_differentiable]:
            ctx.mark_non_differentiable(*not_differentiable)
        if call.differentiated:
            arguments, allocated = call.read_in_backward
            ctx.save_for_backward(own[-1], *(tensors[i] for i in arguments), *(own[i] for i in allocated))
            ctx.call, ctx.ensure_sampled = call, ensure_sampled
        return returned

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        call = BackwardCall.of(ctx.call, gradients)
        ctx.ensure_sampled(call)
        sampled = call.sampled
        arguments = [*ctx.saved_tensors, *(gradient for gradient in gradients if gradient is not None)]
        results = results_of(call, arguments)
        for i, changed in zip(sampled.changed, results, strict=False):
            arguments[i].data.copy_(changed)
        own = results[len(sampled.changed) :]
        of_arguments = [None if place is None else place.of(arguments, own) for place in sampled.returned]
        return (None, None, None, *of_arguments)
