"""What the replay knows of torch without importing it."""

from __future__ import annotations

import torch

from remat_planner.planner.gpu_allocator.caching_allocator import CachingAllocator
from remat_planner.planner.gpu_allocator.replay import itemsize
from remat_planner.tracer.costs import BLOCK


def test_the_name_of_every_dtype_tells_its_size() -> None:
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert len(dtypes) > 20
    for dtype in dtypes:
        assert itemsize(str(dtype).removeprefix("torch.")) == dtype.itemsize, dtype


def test_the_tracer_rounds_storages_as_the_allocator_does() -> None:
    assert CachingAllocator().allocate(1).size == BLOCK
