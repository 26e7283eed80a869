"""Operators that only give a tensor another shape in place become views, and the step keeps eager's bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import remat_planner
from remat_planner.tracer import capture
from tests.tracer.cases import Written, linear, mean_square, noise

_Forward = Callable[[Written, torch.Tensor], torch.Tensor]


def _views(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    before = h * 2
    h.unsqueeze_(0)
    h.transpose_(1, 2).mul_(0.5)
    h.squeeze_(0)
    return mean_square(h.tanh() @ before)


def _spectrogram(m: Written, x: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(m.a(x)[0], 8, window=torch.hann_window(8), return_complex=True)
    return mean_square(spectrum.real.relu() + spectrum.imag)


def _complex(m: Written, x: torch.Tensor) -> torch.Tensor:
    z = torch.view_as_complex(m.a(x).view(4, 8, 2)).clone().unsqueeze_(0).transpose_(1, 2)
    z.squeeze_(0)
    return mean_square(torch.view_as_real(z)[..., 0].sin())


@pytest.mark.slow
@pytest.mark.parametrize("forward", [_views, _spectrogram, _complex])
def test_the_step_has_eagers_bits(forward: _Forward):
    torch.manual_seed(0)
    model, x = Written(forward, a=linear()), noise()
    joint = capture(model, (x,))
    assert not [node for node in joint.ops if "transpose_." in str(node.target)]
    schedule = remat_planner.plan(model, (x,), budget="100%", solver="greedy", verify=False)
    assert remat_planner.verify(model, schedule, (x,)).identical
