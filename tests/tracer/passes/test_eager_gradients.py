"""Gradients of operators for which autograd has another formula on fakes: eager's bits, signs of zeros and NaNs included."""

from __future__ import annotations

import itertools

import pytest
import torch

from remat_planner.planner.torch_private import below_autograd
from remat_planner.tracer import capture
from remat_planner.tracer.costs.measure import undisturbed
from remat_planner.tracer.operators import HAVE_EAGER_GRADIENTS, op_call
from tests.tracer.cases import Written, linear, noise

aten = torch.ops.aten
_ARGUMENTS = {aten.prod.dim_int: (1,), aten.cumprod.default: (0,)}


@pytest.mark.parametrize("operator", HAVE_EAGER_GRADIENTS, ids=str)
def test_the_gradient_has_the_bits_of_autograd(operator: torch._ops.OpOverload):
    arguments = _ARGUMENTS.get(operator, ())
    joint = capture(Written(lambda m, x: operator(m.a(x), *arguments).sum(), a=linear()), (noise(),))
    (node,) = (n for n in joint.ops if n.meta["name"].startswith("backward/gradient_of_"))
    for arriving, zeros in itertools.product((-1.5, float("inf")), (0, 1, 5)):
        source = noise()
        source[0, :zeros] = 0.0
        wanted = source.clone().requires_grad_()
        result = operator(wanted, *arguments)
        gradient = torch.full_like(result, arriving)
        (expected,) = torch.autograd.grad(result, wanted, gradient)
        with torch.no_grad(), below_autograd():  # as a planned step runs
            actual = node.target(gradient, source, *arguments)
        assert torch.equal(actual.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), (arriving, zeros)


def test_products_are_measured_with_a_zero_for_which_they_need_the_most_memory():
    joint = capture(Written(lambda m, x: m.a(x).prod(1).sum(), a=linear()), (noise(),))
    (node,) = (n for n in joint.ops if n.meta["name"].startswith("backward/gradient_of_prod"))
    call = op_call(node)
    with undisturbed({call.device}) as samples:
        _, source = samples.make(call)[0][:2]
    assert (source == 0).sum() == 1
