"""Code for many sizes of the inputs.

Generated code has a name in the place of each number that is computed from sizes. A program for some sizes is this code with
their numbers under the names, so nothing is generated for other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any

from torch import fx

from remat_planner.planner.codegen.program import Backward, Code, Program
from remat_planner.tracer.joint import is_from_sizes


class _Name:
    """Stands in the arguments of a node for a number; generated code has the name."""

    def __init__(self, number: int) -> None:
        self._name = _name(number)

    def __repr__(self) -> str:
        return self._name


def _name(number: int) -> str:
    return f"number_of_sizes_{number}"


def with_names(arguments: Any) -> Any:
    """The arguments of a node, with names in the place of numbers that are computed from sizes."""

    def named(leaf: Any) -> Any:
        return _Name(leaf.number) if is_from_sizes(leaf) else leaf

    return fx.node.map_aggregate(arguments, named)


def program_with(program: Program, numbers: Sequence[Any]) -> Program:
    """``program`` with these numbers, in the order of their indices."""
    named = {_name(k): number for k, number in enumerate(numbers)}

    def backward(of: Backward) -> Backward:
        return replace(of, segments=tuple(replace(segment, run=_with(segment.run, named)) for segment in of.segments))

    return replace(program, run_forward=_with(program.run_forward, named), backwards=program.backwards.changed(backward))


def _with(code: Code, named: Mapping[str, Any]) -> Code:
    """Generated code with these globals besides its own."""
    method: Any = code
    function = method.__func__
    names = {name: named[name] for name in function.__code__.co_names if name in named}
    if not names:
        return code
    return MethodType(FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__), method.__self__)
