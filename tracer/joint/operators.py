"""What an ATen operator does that its name does not say: draws, writes, updates statistics, must not run twice."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

SAME_TENSOR = frozenset({aten.detach.default, aten.alias.default})
"""What detaching is recorded as: from torch 2.14 on the second."""

# Attention is tagged as random whatever its dropout: position and name of the probability.
_ATTENTION_DROPOUT = {
    "aten::_scaled_dot_product_flash_attention": 3,
    "aten::_scaled_dot_product_flash_attention_for_cpu": 3,
    "aten::_scaled_dot_product_cudnn_attention": 5,
    "aten::_scaled_dot_product_efficient_attention": 5,
    "aten::_scaled_dot_product_fused_attention_overrideable": 4,
    "aten::_flash_attention_forward": 7,
    "aten::_efficient_attention_forward": 8,
    "aten::scaled_dot_product_attention": 4,
    "aten::_scaled_dot_product_attention_math": 4,
    "aten::_scaled_dot_product_attention_math_for_mps": 4,
}

# These update running_mean and running_var in training although their schema does not say so: the positions of the two, of
# `training`.
_BATCH_NORM = {
    aten.native_batch_norm.default: (3, 4, 5),
    aten.cudnn_batch_norm.default: (3, 4, 5),
    aten.miopen_batch_norm.default: (3, 4, 5),
}


def _argument(func: torch._ops.OpOverload, args: Any, kwargs: Any, position: int) -> Any:
    """The argument at ``position`` of the schema, given by place, by name or by default."""
    if position < len(args):
        return args[position]
    declared = func._schema.arguments[position]
    return kwargs.get(declared.name, declared.default_value)


def is_random(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether this call draws from a random generator."""
    if getattr(func, "draws", False):
        return True
    if not isinstance(func, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    name = func._schema.name
    if name in _ATTENTION_DROPOUT:
        return bool(_argument(func, args, kwargs, _ATTENTION_DROPOUT[name]))
    if name == "aten::native_dropout":
        return _argument(func, args, kwargs, 2) is not False
    if name.startswith("aten::rrelu"):
        return bool(next((kwargs[k] for k in ("training",) if k in kwargs), args[4] if len(args) > 4 else True))
    return True


def batch_norm_statistics(func: Any, args: Any, kwargs: Any) -> tuple[torch.Tensor, ...]:
    """The running statistics that this call updates behind its schema's back; works on nodes as on tensors."""
    return tuple(_argument(func, args, kwargs, i) for i in hidden_updates(func, args, kwargs))


def hidden_updates(func: Any, args: Any, kwargs: Any) -> tuple[int, ...]:
    """Positions of the running statistics that this call updates; a recomputation passes None there, for the same result."""
    if func not in _BATCH_NORM:
        return ()
    mean, variance, training = _BATCH_NORM[func]
    if not _argument(func, args, kwargs, training):
        return ()
    return tuple(i for i in (mean, variance) if _argument(func, args, kwargs, i) is not None)


def written_arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors (or nodes) among the arguments that the schema says are written to."""
    if not isinstance(func, torch._ops.OpOverload) or not func._schema.is_mutable:
        return []
    written: list[Any] = []
    for i, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = _argument(func, args, kwargs, i)
            values = value if isinstance(value, (list, tuple)) else [value]
            written += [v for v in values if isinstance(v, (torch.Tensor, torch.fx.Node))]
    return written


def reads_a_number(func: Any) -> bool:
    """Whether ``func`` answers with a Python number taken from a tensor's values."""
    return isinstance(func, torch._ops.OpOverload) and torch.Tag.data_dependent_output in func.tags


def sized_by_values(func: Any) -> bool:
    """Whether the shape of what ``func`` gives depends on values: ``unique``, ``nonzero``, a mask as an index."""
    return isinstance(func, torch._ops.OpOverload) and torch.Tag.dynamic_output_shape in func.tags


_ROUTING = {
    "aten::topk",
    "aten::sort",
    "aten::argsort",
    "aten::kthvalue",
    "aten::argmax",
    "aten::argmin",
    "aten::mode",
    "aten::multinomial",
}
_WITH_INDICES = {"aten::max", "aten::min", "aten::median", "aten::nanmedian"}  # in their overload "dim"
_COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional", "_dtensor", "symm_mem")
_pure: set[str] = {"aten", "prims"}


def register_pure(operator: str) -> None:
    """Declare that a custom operator ("namespace::name", or a whole "namespace") gives the same result when run again.

    Operators outside of PyTorch's own are kept, never recomputed, until they are declared so.
    """
    _pure.add(operator)


def is_collective(func: Any) -> bool:
    """Whether other ranks take part in a call of ``func``."""
    return isinstance(func, torch._ops.OpOverload) and func.namespace in _COLLECTIVES


def communicates_in_place(func: Any) -> bool:
    """Whether ``func`` is a collective of ``torch.distributed`` itself, which writes to its arguments and does not say so."""
    return is_collective(func) and func.namespace == "c10d"


def pin_reason(func: Any) -> str | None:
    """Why a call of ``func`` must run exactly once, where the operator alone says so."""
    if not isinstance(func, torch._ops.OpOverload):
        return None
    namespace = func.namespace
    if is_collective(func):
        return "a collective: other ranks take part in it"
    if namespace not in _pure and func._schema.name not in _pure:
        return f"an operator that is not PyTorch's own ({func._schema.name}): whether it may run twice is unknown"
    chooses = func._schema.overload_name == "dim" and func._schema.name in _WITH_INDICES
    if chooses or func._schema.name in _ROUTING:
        return "routing: a recomputed choice of indices may differ"
    if func is aten.copy_.default:
        return "updates a tensor that outlives the step"
    return None
