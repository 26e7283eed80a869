"""Which inputs are one tensor."""

from __future__ import annotations

import torch

from remat_planner.tracer.joint import first_places


def test_the_first_place_of_each_input():
    one, other, weight, buffer = (torch.ones(2) for _ in range(4))
    state = list(enumerate([weight, buffer]))
    assert first_places([one, other, one], state) == (0, 1, 0)
    assert first_places([buffer, one, weight, buffer], state) == (-2, 1, -1, -2)
    assert first_places([one, one.clone(), one.view(2)], []) == (0, 1, 2)
    assert first_places([], state) == ()
