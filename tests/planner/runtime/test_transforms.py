"""torch.func transforms around a planned module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule
from remat_planner.planner.errors import TransformError
from remat_planner.planner.torch_private import (
    inside_transform,
)
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit
def test_transforms_are_refused():
    assert not inside_transform()
    model, x = nn.Linear(3, 1), torch.randn(2, 3)
    ours = apply_schedule(model, schedule_of(capture(model, (x,), loss=torch.sum)))
    with pytest.raises(TransformError, match="remove_schedule"):
        torch.func.vmap(ours)(x[None])
    for write_down in (torch.export.export, torch.jit.trace):
        with pytest.raises(TransformError, match="remove_schedule"):
            write_down(ours, (x,))
        assert write_down(ours.eval(), (x,)) is not None
        ours.train()
