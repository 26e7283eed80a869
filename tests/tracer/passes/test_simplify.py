"""What is computed twice is computed once, unless eager gives each its own memory."""

from __future__ import annotations

import torch
from torch import nn

from remat_planner import apply_schedule, plan, trace, verify
from tests.tracer.cases import Written, linear, noise


def test_outputs_that_eager_computes_apart_do_not_share_memory():
    model = Written(lambda m, x: (m.a(x).exp().view(2, -1), m.a(x).exp().view(4, -1)), a=linear())
    x = noise(4, 16)
    one, other = apply_schedule(model, plan(model, (x,), budget="100%"))(x)
    before = other.clone()
    with torch.no_grad():
        one.zero_()
    assert torch.equal(other, before)


def test_equal_gradients_are_made_apart_as_autograd_hands_them_over():
    model = Written(lambda m, x: (m.a(x) + m.b(x)).tanh().sum(), a=nn.Linear(16, 256), b=nn.Linear(16, 256))
    x = noise(4, 16)
    found = verify(model, plan(model, (x,), budget="min", verify=False), (x,))
    assert found.identical
    assert found.within_budget


def test_an_output_and_what_the_step_reads_are_computed_once():
    model = Written(lambda m, x: (m.a(x).exp().view(2, -1), (m.a(x).exp() * 2).sum()), a=linear())
    assert sum(op.kind == "exp" for op in trace(model, (noise(4, 16),)).ops) == 1
