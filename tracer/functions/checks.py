"""Checks in a captured step: that a number which the forward read, and which decided a branch, is what it was taken for.

A recording has an operator for each; afterwards it is a graph function. It reads the number where eager reads it, and ends the
forward where it is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.operators import OpCall, OperatorFacts, TensorSpec, Values, graph_function, with_facts

_NAMESPACE = "remat_planner"
_NAME = "expected_value"
_LIBRARY: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{_NAME}(Tensor value, float expected, str source) -> Tensor")


class CheckFiredError(Exception):
    """A number that the forward reads is not the one for which the step was captured.

    Attributes:
        source: "file:line" of the read.
    """

    def __init__(self, source: str) -> None:
        super().__init__(f"{source}: the value that is read here is another one than when the step was planned")
        self.source = source


def _result(value: torch.Tensor, _expected: float, _source: str) -> torch.Tensor:
    return value.new_empty(0)


_LIBRARY.impl(_NAME, _result, "CompositeExplicitAutograd")
torch.library.register_fake(f"{_NAMESPACE}::{_NAME}", _result, lib=_LIBRARY)
_OPERATOR: torch._ops.OpOverload = getattr(getattr(torch.ops, _NAMESPACE), _NAME).default


def check_value(value: torch.Tensor, expected: float, source: str) -> None:
    """Record a check that ``value``, of one element, is ``expected`` where each planned step comes by."""
    _OPERATOR(value, expected, source)


def use_checks(graph: fx.Graph) -> None:
    """Put a graph function in the place of each recorded check."""
    for node in graph.nodes:
        if node.target is _OPERATOR:
            value, expected, source = node.args
            node.target = _graph_function(expected, source)
            node.args = (value,)


def is_check(node: fx.Node) -> bool:
    """Whether ``node`` checks a value."""
    return getattr(node.target, "is_check", False)


@cache
def _graph_function(expected: float, source: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def fill(call: OpCall) -> Mapping[str | TensorSpec, Values]:
        return {call.args[0]: lambda flat: flat.fill_(expected)}

    @graph_function(f"check of a value: {expected}")
    @with_facts(OperatorFacts(pure=False, pinned="a check of a value that decided a branch", sample_inputs=fill))
    def expected_value(value: torch.Tensor) -> torch.Tensor:
        if value.item() != expected:
            raise CheckFiredError(source)
        return value.new_empty(0)

    expected_value.is_check = True  # type: ignore[attr-defined]
    return expected_value
