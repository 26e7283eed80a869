"""The roofline against cases worked out by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from remat_planner.tracer.costs.devices import device_named
from remat_planner.tracer.costs.roofline import LAUNCH, bytes_moved, roofline_seconds, roofline_workspace
from remat_planner.tracer.costs.sources import op_costs
from tests.tracer.fake_calls import call_of, nodes_of, on_meta

H100 = device_named("h100")


def test_a_large_product_is_bound_by_arithmetic():
    call = call_of(torch.mm, *on_meta([(8192, 8192), (8192, 8192)], torch.bfloat16))
    assert roofline_seconds(call, H100) == pytest.approx(2 * 8192**3 / (0.7 * 989.4e12))


def test_32_bit_products_use_tensor_cores_only_where_pytorch_may():
    call = call_of(torch.mm, *on_meta([(8192, 8192), (8192, 8192)]))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert roofline_seconds(call, H100) == pytest.approx(2 * 8192**3 / (0.7 * 66.9e12))
        torch.set_float32_matmul_precision("high")
        assert roofline_seconds(call, H100) == pytest.approx(2 * 8192**3 / (0.7 * 494.7e12))
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_elementwise_operator_is_bound_by_memory():
    call = call_of(lambda x, y: x + y, *on_meta([(1 << 28,), (1 << 28,)], torch.bfloat16))
    assert bytes_moved(call) == 3 * 2 * (1 << 28)
    assert roofline_seconds(call, H100) == pytest.approx(3 * 2 * (1 << 28) / (0.8 * 3.35e12))


def test_a_small_operator_is_bound_by_its_launch():
    assert roofline_seconds(call_of(torch.exp, torch.randn(8)), H100) == LAUNCH == 3e-6


def test_views_and_bare_allocations_take_no_time():
    assert roofline_seconds(call_of(lambda x: x.view(-1), torch.randn(4, 4)), H100) == 0
    assert roofline_seconds(call_of(lambda x: torch.empty_like(x), torch.randn(4, 4)), H100) == 0


def test_bytes_are_those_that_are_touched():
    weight, indices = torch.randn(1000, 8), torch.randint(0, 1000, (10,))
    assert bytes_moved(call_of(lambda w, i: F.embedding(i, w), weight, indices)) == 2 * 10 * 8 * 4 + 80
    assert bytes_moved(call_of(lambda x: torch.zeros_like(x), torch.randn(10))) == 40
    assert bytes_moved(call_of(lambda x: x.expand(100, 10) * 2, torch.randn(1, 10), operator="mul")) == 40 + 4000
    assert bytes_moved(call_of(lambda x: x * x, torch.randn(10))) == 80


def test_attention_is_one_kernel_with_its_known_workspace():
    def step(q):
        result = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        return torch.autograd.grad(result, q, torch.ones_like(result))

    q = torch.randn(1, 2, 256, 64).requires_grad_()
    backward = call_of(step, q, operator="attention_for_cpu_backward")
    assert roofline_workspace(backward) == 2 * 256 * (64 + 1) * 4
    assert roofline_workspace(call_of(torch.mm, torch.randn(2, 2), torch.randn(2, 2))) == 0


def test_results_take_whole_blocks_of_the_gpu_allocator():
    small, exact = op_costs(nodes_of(lambda x: (x.sum(), x * 2), torch.randn(128)), costs="h100").values()
    assert (small.allocates, exact.allocates) == ((512,), (512,))
    (over,) = op_costs(nodes_of(torch.exp, torch.randn(129)), costs="h100").values()
    assert over.allocates == (1024,)


def test_a_step_is_costed_on_paper_without_running_it():
    nodes = nodes_of(lambda a, b: torch.relu(torch.mm(a, b).t()), *on_meta([(1 << 15, 1 << 15), (1 << 15, 1 << 15)]))
    costs = op_costs(nodes, costs="a100-80gb")
    assert list(costs) == nodes
    product, view, relu = costs.values()
    assert product.flops == 2 * (1 << 15) ** 3
    assert product.allocates == (4 << 30,)
    assert (view.seconds, view.allocates) == (0, ())
    assert relu.seconds == pytest.approx((8 << 30) / (0.8 * 2.039e12))
