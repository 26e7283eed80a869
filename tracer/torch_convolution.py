"""Which library PyTorch sends a convolution to; private in PyTorch.

``tests/tracer/test_torch_convolution.py`` says when a release breaks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_NO_INPUT = ("Mkldnn", "Cudnn")
"""Backends that compute the gradient of the input from the input's shape and layout alone."""


def gradient_needs_no_input(
    source: torch.Tensor, weight: torch.Tensor, bias_sizes: Sequence[int] | None, *convolution: object
) -> bool:
    """Whether ``aten.convolution_backward`` computes the gradient of the input ``source`` without reading it.

    Args:
        source: the input; only its form counts.
        weight: the weight.
        bias_sizes: of the bias, None without one.
        convolution: stride, padding, dilation, transposed, output padding and groups.
    """
    backend = torch._C._select_conv_backend(source, weight, None, *convolution, bias_sizes)
    if backend.name not in _NO_INPUT:
        return False
    # By a weight in channels last, the library takes an input of another layout for a copy, which reads it.
    return source.is_contiguous(memory_format=torch._C._conv_determine_backend_memory_format(source, weight, backend))
