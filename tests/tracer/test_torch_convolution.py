"""PyTorch's choice of a library for a convolution."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer.torch_convolution import gradient_needs_no_input

_CONVOLUTION = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn")
def test_mkldnn_needs_no_input_for_its_gradient_and_pytorchs_own_kernels_do():
    source, weight = torch.randn(2, 8, 16, 16), torch.randn(8, 8, 3, 3)
    assert gradient_needs_no_input(source, weight, [8], *_CONVOLUTION)
    assert not gradient_needs_no_input(source.double(), weight.double(), [8], *_CONVOLUTION)
