"""Tensors that fill one block of memory, and tensors that do not."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer.joint import is_dense

_BASE = torch.empty(4, 6, 8)


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (_BASE, True),
        (_BASE.permute(2, 0, 1), True),
        (_BASE[:, :1].squeeze(1), False),
        (_BASE[1:3], True),
        (_BASE[..., ::2], False),
        (_BASE[:, 2:5], False),
        (torch.empty(1).expand(4), False),
        (torch.empty(3, 1, 5).as_strided((3, 1, 5), (5, 99, 1)), True),
        (torch.empty(()), True),
    ],
)
def test_dense_tensors_have_neither_gaps_nor_overlaps(tensor: torch.Tensor, dense: bool):
    assert is_dense(tensor) is dense
