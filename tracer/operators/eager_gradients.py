"""Operators whose gradient is computed by one formula on real tensors and by another on fake ones.

Autograd looks at the values (``prod`` divides where nothing is zero), or it asks whether a tensor is of a subclass. A recording
would hold a formula that eager does not run, with other bits. So the gradient of such an operator is recorded as one operator
of this project, its ``gradient_operator``. It has a form, but no kernel: a pass puts a graph function in its place, which runs
eager's formula on the real tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

_NAMESPACE = "remat_planner"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]

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
    flipped = (dim,) if source.dim() else ()
    terms = source.cumprod(dim, **kwargs) * gradient
    return (terms.flip(flipped).cumsum(dim).flip(flipped) / source).to(source.dtype)


_FORMS: Mapping[torch._ops.OpOverload, Formula] = {
    aten.prod.default: _of_product,
    aten.prod.dim_int: _of_product,
    aten.cumprod.default: _of_products,
    aten.max.default: _filled,
    aten.min.default: _filled,
    aten.median.default: _filled,
    aten.nanmedian.default: _filled,
}
"""The operators, each with a formula of the arriving gradient and the operator's arguments whose result has the gradient's
shape, strides and dtype. Each operator has one differentiable argument, its first, and one result."""


def gradient_name(operator: torch._ops.OpOverload) -> str:
    """Name of the gradient of ``operator``, in recordings and in cost profiles."""
    overload = operator._schema.overload_name
    return f"gradient_of_{operator._overloadpacket.__name__}{'_' + overload if overload else ''}"


def _define(operator: torch._ops.OpOverload, form: Formula) -> torch._ops.OpOverload:
    arguments = str(operator._schema).partition("(")[2].rpartition(") ->")[0]
    name = gradient_name(operator)
    _LIBRARY.define(f"{name}(Tensor gradient, {arguments}) -> Tensor")  # type: ignore[no-untyped-call]
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


def operator_of_gradient(target: Any) -> torch._ops.OpOverload | None:
    """The operator whose ``gradient_operator`` is ``target``; None for any other target."""
    return _OPERATORS.get(target) if isinstance(target, torch._ops.OpOverload) else None
