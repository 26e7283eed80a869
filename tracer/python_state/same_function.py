"""Whether two functions do the same although they are two objects: a lambda that is made anew in each step."""

from __future__ import annotations

import dis
import functools
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from remat_planner.tracer.python_state.holders import same


def same_function(one: Any, other: Any) -> bool:
    """Whether a call of ``one`` is a call of ``other``: the same code, with equal defaults and equal variables around it."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, MethodType):
        return bool(one == other)
    if isinstance(one, functools.partial):
        named, others = one.keywords, other.keywords
        return (
            same_function(one.func, other.func)
            and _all_same(one.args, other.args)
            and list(named) == list(others)
            and _all_same(tuple(named.values()), tuple(others.values()))
        )
    return isinstance(one, FunctionType) and _same_python(one, other)


def _same_python(one: FunctionType, other: FunctionType) -> bool:
    named, others = one.__kwdefaults__ or {}, other.__kwdefaults__ or {}
    return (
        one.__code__ is other.__code__
        and one.__globals__ is other.__globals__
        and _all_same(one.__defaults__ or (), other.__defaults__ or ())
        and list(named) == list(others)
        and _all_same(tuple(named.values()), tuple(others.values()))
        and _same_variables(one.__code__, one.__closure__ or (), other.__closure__ or ())
    )


def _same_variables(code: CodeType, one: tuple[CellType, ...], other: tuple[CellType, ...]) -> bool:
    """Whether the variables around a function are the same ones, or hold the same and are not set by it."""
    if all(a is b for a, b in zip(one, other, strict=True)):
        return True
    try:
        equal = all(same(a.cell_contents, b.cell_contents) for a, b in zip(one, other, strict=True))
    except ValueError:  # one is empty
        return False
    return equal and not _sets(code, frozenset(code.co_freevars))


def _sets(code: CodeType, variables: frozenset[str]) -> bool:
    """Whether ``code``, or a function in it, sets one of the variables around it."""
    instructions = dis.get_instructions(code)
    if any(i.opname in ("STORE_DEREF", "DELETE_DEREF") and i.argval in variables for i in instructions):
        return True
    return any(isinstance(constant, CodeType) and _sets(constant, variables) for constant in code.co_consts)


def _all_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))
