"""PyTorch's table of kernels."""

from __future__ import annotations

from remat_planner.tracer.torch_kernel_table import has_kernel


def test_an_overload_that_pytorch_makes_of_others_has_no_kernel_of_its_own():
    assert has_kernel("aten::threshold_backward.grad_input")
    assert not has_kernel("aten::relu.out")
