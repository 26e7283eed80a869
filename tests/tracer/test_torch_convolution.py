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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_input_that_the_library_copies_into_the_layout_of_the_weight_is_read(dimensions: int):
    channels_last = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions]
    source, weight = torch.randn(2, 8, *[6] * dimensions), torch.randn(8, 8, *[3] * dimensions)
    convolution = (*[[1] * dimensions] * 3, False, [0] * dimensions, 1)
    assert not gradient_needs_no_input(source, weight.to(memory_format=channels_last), [8], *convolution)
    for of_weight in (torch.contiguous_format, channels_last):
        assert gradient_needs_no_input(
            source.to(memory_format=channels_last), weight.to(memory_format=of_weight), [8], *convolution
        )
