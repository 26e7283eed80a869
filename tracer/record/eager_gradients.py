"""Records the gradient of some operators as eager computes it, where autograd has another formula for fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from remat_planner.tracer.operators import HAVE_EAGER_GRADIENTS, gradient_operator
from remat_planner.tracer.torch_kernels import autograd_replaced


@contextmanager
def eager_gradients() -> Iterator[None]:
    """Inside, the gradients of ``HAVE_EAGER_GRADIENTS`` on fakes are recorded as one operator each."""
    with autograd_replaced({operator: partial(_differentiable, operator) for operator in HAVE_EAGER_GRADIENTS}):
        yield


def _differentiable(
    operator: torch._ops.OpOverload, original: Callable[..., Any], source: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    if not (torch.is_grad_enabled() and source.requires_grad):
        return original(source, *args, **kwargs)
    return _WithEagerGradient.apply(operator, original, kwargs, source, *args)  # type: ignore[no-untyped-call]


class _WithEagerGradient(torch.autograd.Function):
    """Calls ``original``; its gradient is one call of ``gradient_operator``."""

    @staticmethod
    def forward(
        ctx: Any,
        operator: torch._ops.OpOverload,
        original: Callable[..., Any],
        kwargs: dict[str, Any],
        source: torch.Tensor,
        *args: Any,
    ) -> Any:
        ctx.save_for_backward(source)
        ctx.gradient, ctx.args, ctx.kwargs = gradient_operator(operator), args, kwargs
        return original(source, *args, **kwargs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (source,) = ctx.saved_tensors
        of_source = ctx.gradient(gradient, source, *ctx.args, **ctx.kwargs)
        return (None, None, None, of_source, *(None for _ in ctx.args))
