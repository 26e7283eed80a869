"""Which operators have kernels of their own; private in PyTorch.

``tests/tracer/test_torch_kernel_table.py`` says when a release breaks it.
"""

from __future__ import annotations

import torch


def has_kernel(operator: str) -> bool:
    """Whether ``operator`` ("aten::mul.out") has its own kernel on the CPU; else PyTorch makes it of other operators."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CPU")
