"""What inductor does with an operator, and the private names of PyTorch that tell it.

``tests/tracer/fusion/test_torch_inductor.py`` tries each name.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import fx

__all__ = ["OperatorKind", "kind_of", "operations", "storage_key", "weighs"]

OperatorKind = Literal["view", "pointwise", "reduction", "loop", "kernel"]
"""``kernel``: an operator that inductor calls, such as a matrix product. For the others it makes loops; in a ``loop``, such as
a scatter, it computes nothing else."""

_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward", "_int_mm", "_scaled_mm"}
_REDUCTIONS = {
    *("sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "var", "var_mean", "std"),
    *("std_mean", "logsumexp", "prepare_softmax_online", "cumsum", "cumprod", "xor_sum", "aminmax"),
}
_SCATTERS = {
    "index_put",
    "index_put_",
    "_unsafe_index_put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_copy",
}
_VIEWS = {"_unsafe_view", "lift_fresh_copy", "broadcast_in_dim", "reshape", "alias", "detach", "view_of"}

# Arithmetic per element of a loop, in units of an addition, as vectorized code on a CPU takes it.
_TRANSCENDENTAL = {
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh", "sigmoid", "silu", "gelu"),
    *("erf", "erfc", "erfinv", "pow", "softplus", "mish", "tanh_backward", "gelu_backward", "silu_backward", "lgamma"),
}
_SLOW_ARITHMETIC = {"div", "sqrt", "rsqrt", "reciprocal", "remainder", "fmod", "floor_divide"}
_GATHERS = {"embedding", "index", "_unsafe_index", "gather", "index_select", "cat", "constant_pad_nd", "upsample_nearest2d"}
_RANDOM = {"inductor_random", "inductor_randint"}
_WEIGHTS = (
    *((name, 10.0) for name in _TRANSCENDENTAL),
    *((name, 3.0) for name in _SLOW_ARITHMETIC),
    *((name, 6.0) for name in _GATHERS),
    *((name, 60.0) for name in _RANDOM),
    *((name, 8.0) for name in _SCATTERS),
)
_WEIGHT_OF = dict(_WEIGHTS)


def kind_of(target: Any) -> OperatorKind:
    """How inductor runs the operator ``target``."""
    from torch._inductor.lowering import fallbacks, lowerings

    if not isinstance(target, torch._ops.OpOverload):
        return "kernel"
    name = target._opname
    returns = target._schema.returns
    if name in _VIEWS or (returns and not target._schema.is_mutable and all(r.alias_info is not None for r in returns)):
        return "view"
    if name in _PRODUCTS or target not in lowerings or target in fallbacks:
        return "kernel"
    if name in _SCATTERS:
        return "loop"
    return "reduction" if name in _REDUCTIONS else "pointwise"


def weighs(target: Any) -> float:
    """Arithmetic of a fused operator for one element, in additions."""
    return _WEIGHT_OF.get(target._opname, 1.0) if isinstance(target, torch._ops.OpOverload) else 1.0


def operations(node: fx.Node) -> int:
    """Operations of an iteration of the loop for ``node``, loads left out, as ``OpCounterCSE`` of inductor counts them.

    It counts those that decide which element is read, too.
    """
    target = node.target
    arguments: Any = node.args
    if not isinstance(target, torch._ops.OpOverload):
        return 0
    if target is torch.ops.aten.slice_scatter.default:
        dim, start, end, step = arguments[2:] + (0, None, None, 1)[len(arguments) - 2 :]
        bounds = (start not in (0, None)) + (end is not None and end < node.meta["val"].shape[dim])
        strided = int(step != 1)
        return 2 + 3 * bounds + 4 * strided
    if target is torch.ops.aten.constant_pad_nd.default:
        sizes = arguments[1]
        padded = sum(max(pair) > 0 for pair in zip(sizes[::2], sizes[1::2], strict=True))
        return padded + 3 * sum(size > 0 for size in sizes)
    return 1 + sum(isinstance(argument, int | float) for argument in arguments)


def storage_key(tensor: torch.Tensor) -> int:
    """A number that tensors have in common exactly where they share memory; it holds for fakes too."""
    return tensor.untyped_storage()._cdata
