"""Each private name of PyTorch around conversions of modules, by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from remat_planner.tracer import torch_modules as private
from remat_planner.tracer.torch_private import new_fake_mode


def test_a_stand_in_is_a_parameter_or_a_buffer_for_isinstance():
    with new_fake_mode():
        parameter = private.stands_for(torch.empty(2), nn.Parameter(torch.empty(2)))
        buffer = private.stands_for(torch.empty(2), nn.Buffer(torch.empty(2)))
        other = private.stands_for(torch.empty(2), torch.empty(2))
    kinds = [(isinstance(t, nn.Parameter), isinstance(t, nn.Buffer)) for t in (parameter, buffer, other)]
    assert kinds == [(True, False), (False, True), (False, False)]


def test_a_conversion_leaves_fakes_that_it_does_not_change_and_tells_of_others():
    seen: list[Any] = []
    with new_fake_mode():
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    parameters = list(module.parameters())
    with private.conversions_watched(lambda parameter, frame: seen.append((parameter, frame.f_code.co_filename))):
        module.to(torch.float32).cpu().float()
        assert not seen
        assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
        module[0].double()
    assert [parameter for parameter, _ in seen] == [module[0].weight, module[0].bias]
    real = nn.Linear(2, 2)
    with private.conversions_watched(lambda *_: None):
        real.double()
    assert real.weight.dtype == torch.float64
