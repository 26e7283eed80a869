"""The private names of PyTorch around symbols, which stand for sizes in a graph that ``torch.compile`` captured for several.

``tests/planner/partition/test_torch_symbols.py`` tries each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

__all__ = [
    "added_condition",
    "bounds_of",
    "constraint_violated",
    "environment_of",
    "grows_to",
    "is_marked",
    "is_symbolic_number",
    "names_of",
    "number_at",
    "number_now",
    "shape_expressions",
    "symbols_in",
    "tensor_at",
]

Symbol = Any
"""A symbol of sympy, which comes with PyTorch."""
_UNBOUNDED = 1 << 62
_MOST_TRIED = 4096
"""Values of a symbol for which an expression is computed one by one; more take seconds."""


def is_symbolic_number(value: Any) -> bool:
    """Whether ``value`` is a number that depends on sizes of the inputs."""
    from torch.types import py_sym_types

    return isinstance(value, py_sym_types)


def symbols_in(value: Any) -> set[Symbol]:
    """The symbols that a tensor's form, or a number, depends on."""
    from torch.fx.experimental.symbolic_shapes import free_symbols

    return set(free_symbols(value)) if isinstance(value, torch.Tensor) or is_symbolic_number(value) else set()


def environment_of(value: Any) -> Any:
    """What is known about the symbols of a fake tensor or a number."""
    holder: Any = value.fake_mode if hasattr(value, "fake_mode") else value.node
    return holder.shape_env


def bounds_of(environment: Any, symbol: Symbol) -> tuple[int, int | None]:
    """The least and the largest value that the compiled graph is for so far; None where there is no largest."""
    found = environment.var_to_range[symbol]
    return int(found.lower), int(found.upper) if found.upper.is_Integer and found.upper < _UNBOUNDED else None


def is_marked(environment: Any, symbol: Symbol) -> bool:
    """Whether the user gave the symbol a range, by ``mark_dynamic(..., min=, max=)``, for all of which the graph must be."""
    from torch.fx.experimental.symbolic_shapes import StrictMinMaxConstraint

    for tracked in environment.tracked_fakes or ():
        constraints = getattr(tracked.symbolic_context, "constraint_sizes", None) or ()
        sizes = getattr(tracked.fake, "shape", ())
        for size, constraint in zip(sizes, constraints, strict=False):
            if isinstance(constraint, StrictMinMaxConstraint) and symbol in symbols_in(size):
                return True
    return False


def number_now(environment: Any, symbol: Symbol) -> int | float | None:
    """The value in this call; None where it depends on values of tensors."""
    number = environment.backed_var_to_val.get(symbol)
    return None if number is None else (int(number) if number.is_Integer else float(number))


def names_of(environment: Any, symbol: Symbol) -> list[str]:
    """The sizes of inputs that it is, as in ``x.size()[0]``, those that are equal in all calls among them."""
    symbols = [symbol, *(other for other, found in environment.replacements.items() if found == symbol)]
    sources = [source for one in symbols for source in environment.var_to_sources.get(one, ())]
    return [re.sub(r"\bL\['(\w+)'\]", r"\1", str(source.name)) for source in sources] or [str(symbol)]


def added_condition(environment: Any, symbol: Symbol, at_most: int) -> None:
    """Let the compiled graph run for values of at most ``at_most``; ``torch.compile`` compiles again for larger ones."""
    import sympy

    environment.evaluate_expr(sympy.Le(symbol, at_most))


def number_at(number: Any, numbers: Mapping[Symbol, int | float]) -> Any:
    """``number`` where the symbols have the values ``numbers``."""
    if not is_symbolic_number(number):
        return number
    found = number.node.expr.xreplace(numbers)
    return (
        bool(found) if isinstance(number, torch.SymBool) else int(found) if isinstance(number, torch.SymInt) else float(found)
    )


def shape_expressions(tensor: torch.Tensor) -> set[Any]:
    """The expressions for the sizes and strides of ``tensor`` that depend on symbols."""
    return {n.node.expr for n in (*tensor.shape, *tensor.stride()) if is_symbolic_number(n)}


def grows_to(expression: Any, bounds: Mapping[Symbol, tuple[int, int]]) -> bool:
    """Whether ``expression`` is shown to be nowhere larger than where all its symbols are largest.

    Args:
        expression: for a size or a stride.
        bounds: the least and the largest value of each symbol.
    """
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    symbols = expression.free_symbols
    largest = int(expression.xreplace({s: bounds[s][1] for s in symbols}))
    if bound_sympy(expression, {s: ValueRanges(*bounds[s]) for s in symbols}).upper <= largest:
        return True
    if len(symbols) != 1:
        return False
    (symbol,) = symbols
    least, most = bounds[symbol]
    return most - least < _MOST_TRIED and all(int(expression.xreplace({symbol: n})) <= largest for n in range(least, most))


def tensor_at(
    tensor: torch.Tensor, numbers: Mapping[Symbol, int | float], storages: MutableMapping[int, torch.Tensor]
) -> torch.Tensor:
    """The fake ``tensor`` where the symbols have the values ``numbers``.

    Args:
        tensor: whose memory others may share.
        numbers: for all symbols.
        storages: the memory of earlier calls, so that tensors that share theirs do so afterwards; this one's is added.
    """
    shape, stride = ([number_at(n, numbers) for n in sizes] for sizes in (tensor.shape, tensor.stride()))
    offset = number_at(tensor.storage_offset(), numbers)
    storage = tensor.untyped_storage()
    with tensor.fake_mode:  # type: ignore[attr-defined]
        if storage._cdata not in storages:
            size = int(number_at(storage.nbytes(), numbers))
            storages[storage._cdata] = torch.empty(size, dtype=torch.uint8, device=tensor.device)
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return empty.set_(storages[storage._cdata].untyped_storage(), offset, shape, stride)


def constraint_violated(error: Exception) -> bool:
    """Whether ``torch.compile`` found that what it captured does not hold for a whole range of sizes that was asked for."""
    from torch._dynamo.exc import UserError, UserErrorType
    from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

    return isinstance(error, ConstraintViolationError) or (
        isinstance(error, UserError) and error.error_type is UserErrorType.CONSTRAINT_VIOLATION
    )
