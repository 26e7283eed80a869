"""Storages count once, from the operator that allocates them to their last reference."""

from __future__ import annotations

import torch

from remat_planner.planner.measurement.storage_meter import StorageMeter


def test_storage_meter_counts_views_once_and_frees():
    x = torch.randn(10, 10)
    with StorageMeter([x]) as meter:
        a = x + x
        b = a.view(100)[:50]
        assert meter.live == 400
        del a
        assert meter.live == 400
        c = b * b
        assert meter.live == 600
        del b
        assert meter.live == 200
        x.add_(c.sum())
        del c
    assert meter.live == 0
    assert meter.peak == 600
    assert "mul" in meter.operator
