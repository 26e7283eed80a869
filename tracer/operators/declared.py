"""What PyTorch itself declares about an operator, in its schema and its tags."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

aten = torch.ops.aten

SAME_TENSOR = frozenset({aten.detach.default, aten.alias.default})
"""The operators that ``Tensor.detach`` is recorded as; from torch 2.14 on, the second."""


def argument_of(func: torch._ops.OpOverload, args: Any, kwargs: Any, name: str) -> Any:
    """The argument called ``name`` of a call: positional, named or by default; None where the schema has no such argument."""
    for position, declared in enumerate(func._schema.arguments):
        if declared.name == name:
            return args[position] if position < len(args) else kwargs.get(name, declared.default_value)
    return None


def bound_arguments(func: torch._ops.OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments of a call by their names in the schema, with the defaults of those that are left out."""
    declared = func._schema.arguments
    return {a.name: args[i] if i < len(args) else kwargs.get(a.name, a.default_value) for i, a in enumerate(declared)}


def argument_position(func: torch._ops.OpOverload, name: str) -> int:
    """The position of the argument called ``name`` in the schema of ``func``, which has one."""
    return next(position for position, declared in enumerate(func._schema.arguments) if declared.name == name)


def written_arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors (or nodes) among the arguments that the call writes to according to the schema."""
    if not isinstance(func, torch._ops.OpOverload) or not func._schema.is_mutable:
        return []
    written: list[Any] = []
    for declared in func._schema.arguments:
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = argument_of(func, args, kwargs, declared.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            written += [v for v in values if isinstance(v, (torch.Tensor, torch.fx.Node))]
    return written


def reads_a_number(func: Any) -> bool:
    """Whether ``func`` returns a Python number taken from a tensor's values, as ``Tensor.item`` does."""
    return isinstance(func, torch._ops.OpOverload) and torch.Tag.data_dependent_output in func.tags


def moves_in_place(func: Any) -> bool:
    """Whether ``func`` gives its first argument another shape, strides or memory, as ``unsqueeze_`` and ``set_`` do."""
    return isinstance(func, torch._ops.OpOverload) and torch.Tag.inplace_view in func.tags


@cache
def takes_generator(func: Any) -> bool:
    """Whether ``func`` has an argument for a random generator."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    return any("Generator" in str(declared.type) for declared in func._schema.arguments)


def sized_by_values(func: Any) -> bool:
    """Whether the shape of the result depends on values: ``unique``, ``nonzero``, a mask as an index."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    return torch.Tag.dynamic_output_shape in func.tags or func is aten._pack_padded_sequence.default  # which lacks the tag
