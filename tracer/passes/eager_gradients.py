"""Gradients that are computed by autograd's own formula when the step runs, see ``tracer.operators.eager_gradients``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.operators import (
    OpCall,
    OperatorFacts,
    TensorSpec,
    Values,
    gradient_name,
    graph_function,
    operator_of_gradient,
    with_facts,
)
from remat_planner.tracer.torch_functions import with_autograd


def use_eager_gradients(graph: fx.Graph) -> None:
    """Put a graph function in the place of each recorded gradient operator."""
    for node in graph.nodes:
        operator = operator_of_gradient(node.target)
        if operator is not None:
            node.target = _gradient_function(operator)


@cache
def _gradient_function(operator: torch._ops.OpOverload) -> Callable[..., torch.Tensor]:
    name = gradient_name(operator)

    @with_facts(OperatorFacts(sample_inputs=_with_a_zero))
    @graph_function(f"tracer.eager_gradients.{name}")
    def run(gradient: torch.Tensor, source: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with with_autograd():
            source = source.detach().requires_grad_()
            result = operator(source, *args, **kwargs)
            return torch.autograd.grad(result, source, gradient)[0]

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"The gradient of ``{operator}`` with respect to its first argument, by autograd's own formula."
    return run


def _with_a_zero(call: OpCall) -> Mapping[str | TensorSpec, Values]:
    """One zero in the source: with it the formulas of products allocate the most."""
    return {call.args[1]: _one_zero}


def _one_zero(flat: torch.Tensor) -> None:
    (torch.view_as_real(flat) if flat.is_complex() else flat).uniform_(0.25, 0.75)
    flat[:1].zero_()
