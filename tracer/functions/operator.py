"""The operator that stands in a recording for a call of a Function, and the graph functions that take its place.

A recording goes through passes that know operators alone. Afterwards each call is a graph function, which runs the code as it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.functions.call import Call
from remat_planner.tracer.operators import OperatorFacts, graph_function, with_facts

_NAMESPACE = "remat_planner"
_NAME = "autograd_function"
_LIBRARY: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{_NAME}(Tensor[] arguments, int number) -> Tensor[]")


def _fake(_arguments: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
    return [form.empty() for form in Call.known[number].forms]


def _real(arguments: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
    return Call.known[number].run(arguments)


_LIBRARY.impl(_NAME, _real, "CompositeExplicitAutograd")
torch.library.register_fake(f"{_NAMESPACE}::{_NAME}", _fake, lib=_LIBRARY)
record_call: torch._ops.OpOverload = getattr(getattr(torch.ops, _NAMESPACE), _NAME).default
"""The operator: it takes the tensors of a call and its number, and returns its results."""
RECORDED_AS = str(record_call)
"""Name of the operator that a recording has in the place of a Function, which eager does not call."""


def results_of(call: Call, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The results of ``call``, as ``calls`` lists them; on fakes a recording gets one operator."""
    results: list[torch.Tensor] = record_call(list(arguments), call.number)
    return results


def use_functions(graph: fx.Graph) -> None:
    """Put a graph function in the place of each recorded call of a Function."""
    for node in graph.nodes:
        if node.target is record_call:
            arguments, number = node.args
            call = Call.known[number]
            node.target = _graph_function(call, call.facts)
            node.args = tuple(arguments)


@cache
def _graph_function(call: Call, facts: OperatorFacts) -> Callable[..., Any]:
    @graph_function(call.recorded_name)
    @with_facts(facts)
    def run(*arguments: torch.Tensor) -> list[torch.Tensor]:
        return call.run(arguments)

    run.__name__ = run.__qualname__ = re.sub(r"\W", "_", call.short_name)
    run.__doc__ = f"The code of ``{call.name}``, run as it is."
    return run
