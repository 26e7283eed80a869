"""Operators whose gradient is computed by one formula on real tensors and by another on fake ones.

Autograd looks at the values (``prod`` divides where nothing is zero), or it asks whether a tensor is of a subclass or a dispatch
mode is active. A recording would therefore hold a formula that eager does not run, with other bits. The gradient of such an
operator is recorded as one operator of this project, ``gradient_operator``, and becomes a graph function that runs the formula
of eager on the real tensors, ``gradient_function``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from remat_planner.tracer.operators.facts import OperatorFacts, Values
from remat_planner.tracer.operators.graph_functions import graph_function
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec

aten = torch.ops.aten

_NAMESPACE = "remat_planner"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")

Formula = Callable[..., torch.Tensor]


def _filled(_gradient: torch.Tensor, source: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
    """The formula fills a new tensor."""
    return torch.empty(source.shape, dtype=source.dtype, device=source.device)


def _of_product(
    gradient: torch.Tensor, source: torch.Tensor, dim: int | None = None, keepdim: bool = False, **kwargs: Any
) -> torch.Tensor:
    """The formula where no factor is zero."""
    if dim is None:
        return (gradient * (source.prod(**kwargs) / source)).to(source.dtype)
    result = source.prod(dim, keepdim, **kwargs)
    if not keepdim and source.dim():
        gradient, result = gradient.unsqueeze(dim), result.unsqueeze(dim)
    return (gradient * (result / source)).to(source.dtype)


def _of_products(gradient: torch.Tensor, source: torch.Tensor, dim: int, **kwargs: Any) -> torch.Tensor:
    """The formula where no factor is zero."""
    sums = (source.cumprod(dim, **kwargs) * gradient).flip(dim if source.dim() else ()).cumsum(dim).flip(dim if source.dim() else ())
    return (sums / source).to(source.dtype)


_FORMS: Mapping[torch._ops.OpOverload, Formula] = {
    aten.prod.default: _of_product,
    aten.prod.dim_int: _of_product,
    aten.cumprod.default: _of_products,
    aten.max.default: _filled,
    aten.min.default: _filled,
    aten.median.default: _filled,
    aten.nanmedian.default: _filled,
}
"""The operators, each with a formula of the arriving gradient and the operator's arguments whose result has the gradient's shape,
strides and dtype. Each operator has one differentiable argument, its first, and one result."""


def _name(operator: torch._ops.OpOverload) -> str:
    overload = operator._schema.overload_name
    return f"gradient_of_{operator._overloadpacket.__name__}{'_' + overload if overload else ''}"


def _define(operator: torch._ops.OpOverload, form: Formula) -> torch._ops.OpOverload:
    arguments = str(operator._schema).partition("(")[2].rpartition(") ->")[0]
    name = _name(operator)
    _LIBRARY.define(f"{name}(Tensor gradient, {arguments}) -> Tensor")
    torch.library.register_fake(f"{_NAMESPACE}::{name}", form, lib=_LIBRARY)
    packet = getattr(getattr(torch.ops, _NAMESPACE), name)
    defined: torch._ops.OpOverload = packet.default
    return defined


_GRADIENTS = {operator: _define(operator, form) for operator, form in _FORMS.items()}
HAVE_EAGER_GRADIENTS = tuple(_FORMS)
"""The operators whose gradient is recorded as ``gradient_operator``."""

_OPERATORS = {gradient: operator for operator, gradient in _GRADIENTS.items()}


def gradient_operator(operator: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The operator that stands in a recording for the gradient of ``operator``: ``f(gradient, *args, **kwargs)``."""
    return _GRADIENTS[operator]


def gradient_function(target: Any) -> Formula | None:
    """The graph function to run in place of ``target``, one of ``gradient_operator``; None for any other target."""
    operator = _OPERATORS.get(target) if isinstance(target, torch._ops.OpOverload) else None
    return None if operator is None else _function(operator)


@cache
def _function(operator: torch._ops.OpOverload) -> Formula:
    @graph_function(f"tracer.eager_gradients.{_name(operator)}", facts=OperatorFacts(sample_inputs=_with_a_zero))
    def run(gradient: torch.Tensor, source: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        source = source.detach().requires_grad_()
        with torch.enable_grad():
            result = operator(source, *args, **kwargs)
        return torch.autograd.grad(result, source, gradient)[0]

    run.__name__ = run.__qualname__ = _name(operator)
    run.__doc__ = f"The gradient of ``{operator}``, by autograd's own formula."
    return run


def _with_a_zero(call: OpCall) -> Mapping[str | TensorSpec, Values]:
    """One zero in the source: the formulas of products need the most memory then."""
    return {call.args[1]: _one_zero}


def _one_zero(flat: torch.Tensor) -> None:
    (torch.view_as_real(flat) if flat.is_complex() else flat).uniform_(0.25, 0.75)
    flat[:1].zero_()
