"""FLOPs against arithmetic by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.measure import undisturbed
from tests.tracer.fake_calls import call_of, calls_of, on_meta


def total(function, *tensors):
    return sum(flops(call) for call in calls_of(function, *tensors))


def both(function):
    def run(*tensors):
        result = function(*[t.requires_grad_() for t in tensors])
        return torch.autograd.grad(result, tensors, torch.ones_like(result))

    return run


def test_matrix_products():
    a, b, bias = on_meta([(4, 8), (8, 3), (3,)])
    assert flops(call_of(torch.mm, a, b)) == 2 * 4 * 8 * 3
    assert flops(call_of(lambda i, a, b: torch.addmm(i, a, b), bias, a, b)) == 2 * 4 * 8 * 3
    assert flops(call_of(torch.bmm, *on_meta([(5, 4, 8), (5, 8, 3)]))) == 5 * 2 * 4 * 8 * 3
    assert flops(call_of(torch.mv, *on_meta([(4, 8), (8,)]))) == 2 * 4 * 8
    assert flops(call_of(torch.dot, *on_meta([(8,), (8,)]))) == 2 * 8


def test_grouped_products():
    rows, experts, ends = torch.randn(64, 16).bfloat16(), torch.randn(4, 16, 32).bfloat16(), torch.zeros(4, dtype=torch.int32)
    call = call_of(lambda x, w, e: torch._grouped_mm(x, w, offs=e), rows, experts, ends)
    assert flops(call) == 2 * 64 * 16 * 32
    with undisturbed([]) as samples:
        args, kwargs = samples.make(call)
    assert [*args, *kwargs.values()][2].tolist() == [16, 32, 48, 64]


def test_convolutions_and_their_backward():
    x, w = torch.randn(2, 3, 10, 10), torch.randn(5, 3, 3, 3)
    forward = 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert total(lambda x, w: F.conv2d(x, w), x, w) == forward
    assert total(both(lambda x, w: F.conv2d(x, w)), x, w) == 3 * forward


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_counts_half_when_causal(causal):
    batch, heads, queries, width = 2, 3, 16, 8
    q, k, v = (torch.randn(batch, heads, queries, width) for _ in range(3))
    product = 2 * batch * heads * queries * queries * width
    forward = 2 * product // (2 if causal else 1)
    run = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # noqa: E731
    assert total(run, q, k, v) == forward
    assert total(both(run), q, k, v) == forward * 7 // 2  # the backward is 2.5 times the forward


def test_elementwise_operators_count_nothing():
    assert total(lambda x: torch.softmax(x.exp() * 2, -1).sum(), torch.randn(4, 4)) == 0


def test_recurrent_layers():
    x, lstm = torch.randn(5, 3, 8), torch.nn.LSTM(8, 16)
    forward = 2 * 5 * 3 * 4 * 16 * (8 + 16)
    assert total(lambda x: lstm(x)[0], x) == forward


def test_the_recurrent_layers_of_cudnn():
    weights = on_meta([(64, 8), (64, 16), (64,), (64,)])
    x, h, c, buffer = on_meta([(5, 3, 8), (1, 3, 16), (1, 3, 16), (2000,)])

    def rnn(x, h, c, buffer, *weights):
        return torch.ops.aten._cudnn_rnn(x, list(weights), 4, buffer, h, c, 2, 16, 0, 1, False, 0.0, True, False, [], None)

    assert flops(call_of(rnn, x, h, c, buffer, *weights, operator="_cudnn_rnn.")) == 2 * 5 * 3 * 64 * (8 + 16)
