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
from remat_planner.tracer.functions.purity import is_registered_pure
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
_OPERATOR: torch._ops.OpOverload = getattr(getattr(torch.ops, _NAMESPACE), _NAME).default
RECORDED_AS = str(_OPERATOR)
"""Name of the operator that a recording has in the place of a Function, which eager does not call."""


def results_of(call: Call, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The results of ``call``, as ``calls`` lists them; on fakes a recording gets one operator."""
    results: list[torch.Tensor] = _OPERATOR(list(arguments), call.number)
    return results


def use_functions(graph: fx.Graph) -> None:
    """Put a graph function in the place of each recorded call of a Function."""
    for node in graph.nodes:
        if node.target is _OPERATOR:
            arguments, number = node.args
            call = Call.known[number]
            node.target = _graph_function(call, is_registered_pure(call.function))
            node.args = tuple(arguments)


@cache
def _graph_function(call: Call, pure: bool) -> Callable[..., Any]:
    kind = getattr(call.function, "what", "an autograd.Function")
    pinned = None if pure else f"{kind} that runs as it is ({call.name}): whether it may run twice is unknown"

    @graph_function(f"autograd.Function {call.description}")
    @with_facts(OperatorFacts(pure=pure, pinned=pinned, draws=call.sampled.draws))
    def run(*arguments: torch.Tensor) -> list[torch.Tensor]:
        return call.run(arguments)

    run.__name__ = run.__qualname__ = re.sub(r"\W", "_", call.short_name)
    run.__doc__ = f"The code of ``{call.name}``, run as it is."
    return run
