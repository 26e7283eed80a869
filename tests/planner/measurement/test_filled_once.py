"""A cache is filled once; a loss that is kept for the caller is another one in each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from remat_planner.planner.measurement.filled_once import FilledOnce
from remat_planner.planner.measurement.kept_state import KeptState


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask: torch.Tensor | None = None
        self.tables: dict[Any, Any] = {}
        self.loss: torch.Tensor | None = None
        self.ready = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            self.mask = torch.ones(2)
            self.tables[2] = {"cos": torch.ones(2), "size": 2}
        self.ready = True
        self.loss = x.sum()
        return x


def test_a_cache_is_told_from_a_loss():
    model, filled = Caching(), FilledOnce()
    state = KeptState(model)
    for _ in range(2):
        filled.restart()
        state.restart()
        for _ in range(3):
            model(torch.ones(2))
            filled.note(state.changed_objects())
        assert set(filled.names()) == {"mask", "tables[2]"}
    assert filled.holds("step 2: state mask")
    assert filled.holds("step 1: state mask (requires a gradient)")
    assert filled.holds("step 3: state tables[2]['size']")
    for name in ("state loss", "state ready", "state mask_of_another", "input mask", "buffer mask"):
        assert not filled.holds(f"step 1: {name}")


def test_nothing_is_filled_before_the_first_step():
    assert FilledOnce().names() == ()
