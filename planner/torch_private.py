"""The private names of torch that the applier needs, in one place: a release that moves one breaks here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx
from torch.optim import optimizer as optimizers


def below_autograd() -> AbstractContextManager[None]:
    """Run operators without autograd's own layer, which has nothing to record here; in-place ops still bump versions."""
    return torch._C._AutoDispatchBelowAutograd()


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without what it does for ``torch.func`` transforms, at half the time; not for use inside of one."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def inside_transform() -> bool:
    """True inside of a ``torch.func`` transform (``grad``, ``vmap``, ...)."""
    return torch._C._are_functorch_transforms_active()


def graph_is_kept() -> bool:
    """True inside a backward that was called with ``retain_graph=True``."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def binding_modules() -> tuple[object, ...]:
    """Where the generated Python bindings of operators are found."""
    return torch, torch._C._nn, torch._C._linalg, torch._C._fft, torch._C._special  # type: ignore[attr-defined]


def is_view_operator(target: object) -> bool:
    """True for an operator whose results alias its arguments and which writes nothing."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    returns = target._schema.returns
    return bool(returns) and not target._schema.is_mutable and all(r.alias_info is not None for r in returns)


def writes_to_argument(node: fx.Node, position: int) -> bool:
    """True where the node's operator changes its argument at ``position`` in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    info = arguments[position].alias_info if position < len(arguments) else None
    return info is not None and info.is_write


@contextmanager
def meta_optimized_as(device: str) -> Iterator[None]:
    """Within this, ``torch.optim`` chooses for parameters on the meta device what it would for those on ``device``."""
    names = ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices")
    originals = {name: getattr(optimizers, name) for name in names}
    for name, original in originals.items():
        supported = original()
        setattr(optimizers, name, lambda s=supported: [*s, *(["meta"] if device in s else [])])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(optimizers, name, original)
