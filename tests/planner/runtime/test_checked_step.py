"""Checks that never fire are planned; where one fires, the step is eager's."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.ao.quantization import FakeQuantize

import remat_planner
from remat_planner.tracer import capture
from remat_planner.tracer.errors import DataDependentError

Check = Callable[[torch.Tensor], torch.Tensor]


def _clamp(x: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(x).all():
        x = x.clamp(-10, 10).nan_to_num()
    return x


def _either(x: torch.Tensor) -> torch.Tensor:
    if torch.isinf(x).any() or torch.isnan(x).any():
        x = torch.zeros_like(x) + x.nan_to_num().clamp(-1, 1)
    return x


def _counted(x: torch.Tensor) -> torch.Tensor:
    if (torch.isnan(x) | torch.isinf(x)).sum() > 0:
        x = x.nan_to_num().clamp(-2, 2)
    return x


def _of_one_number(x: torch.Tensor) -> torch.Tensor:
    if torch.isnan(x.sum()) or x.mean().isinf().item():
        x = x.nan_to_num().clamp(-3, 3)
    return x


CHECKS: dict[str, Check] = {"isfinite": _clamp, "isinf or isnan": _either, "count": _counted, "one number": _of_one_number}


class Net(nn.Module):
    """Draws, updates statistics, counts in Python and checks."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.BatchNorm1d(16)
        self.check = check

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.norm(x.clamp(-5, 5).nan_to_num()), 0.2) + x
        for layer in self.layers:
            x = self.check(layer(x).sin().add(x))
        return x.square().mean()


def _steps(model: nn.Module, inputs: list[torch.Tensor]) -> list[Any]:
    torch.manual_seed(5)
    seen: list[Any] = []
    for x in inputs:
        model.zero_grad()
        loss = model(x)
        loss.backward()
        seen += [loss.detach(), *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]
        seen.append(torch.get_rng_state())
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_step_in_which_a_check_fires_is_eagers(check: Check, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    model, x = Net(check), torch.randn(8, 16)
    bad = x.clone()
    bad[0, 0] = float("inf")
    eager = copy.deepcopy(model)
    schedule = remat_planner.plan(model, (x,), budget="100%", solver="greedy", time_limit=1, costs="h100", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    inputs = [x, bad, x, bad]
    expected = _steps(eager, inputs)
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        got = _steps(planned, inputs)
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(expected, got, strict=True))
    told = [message for message in caplog.messages if "done by eager" in message]
    assert len(told) == 1
    assert "test_checked_step.py" in told[0]


@pytest.mark.slow
def test_an_assertion_and_an_argument_check_are_eagers_errors():
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            assert not torch.isnan(h).any()
            assert h.detach().square().mean() >= 0
            assert (h.square() >= 0).all()
            assert not (h > 1e6).any(), "large"
            if torch.any(self.a.bias > 100).item():
                raise OverflowError("bias")
            if not torch.all(self.a.weight < 100):
                raise OverflowError("weight")
            h = h + F.gaussian_nll_loss(h, h.detach(), F.softplus(h))  # which raises where a variance is negative
            normal = torch.distributions.Normal(h, F.softplus(h), validate_args=True)  # which TorchDynamo turns off
            return -normal.log_prob(h.detach().clamp(-1, 1)).mean()

    model, x = Checked(), torch.randn(2, 4)
    schedule = remat_planner.plan(model, (x,), budget="100%", solver="greedy", time_limit=1, costs="h100", verify=False)
    eager = copy.deepcopy(model)
    planned = remat_planner.apply_schedule(model, schedule)
    assert torch.equal(planned(x), eager(x))
    with pytest.raises(AssertionError):
        planned(x * float("nan"))
    with pytest.raises(AssertionError, match="large"):
        planned(x * 1e9)
    for name in ("bias", "weight"):
        parameter = getattr(planned.a, name)
        with torch.no_grad():
            parameter.add_(200)
        with pytest.raises(OverflowError, match=name):
            planned(x)
        with torch.no_grad():
            parameter.sub_(200)
    with torch.no_grad():
        planned.a.weight.zero_()
        planned.a.bias.fill_(-1e4)  # softplus gives zero
    with pytest.raises(ValueError, match="scale"):
        planned(x)


@pytest.mark.slow
def test_quantization_aware_training_is_eagers_from_its_first_step_on():
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.fake = nn.Linear(8, 8), FakeQuantize()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fake(self.layer(x)).square().mean()

    torch.manual_seed(0)
    model, args = Quantized(), (torch.randn(16, 8),)
    schedule = remat_planner.plan(model, args, budget="100%", solver="greedy", time_limit=1, verify=False)
    result = remat_planner.verify(model, schedule, args)
    assert result.identical, result.differences


@pytest.mark.slow
def test_views_of_a_draw_stay_its_views():
    def drawn(x: torch.Tensor) -> torch.Tensor:
        scale = torch.diag_embed(1 + x.sin() / 2)
        return torch.distributions.MultivariateNormal(x, scale_tril=scale).rsample()

    torch.manual_seed(0)
    model, args = Net(drawn), (torch.randn(4, 16) / 100,)
    schedule = remat_planner.plan(model, args, budget="100%", solver="greedy", time_limit=1, verify=False)
    result = remat_planner.verify(model, schedule, args)
    assert result.identical
    assert result.within_budget


def test_a_branch_that_may_go_either_way_is_refused():
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            if (h > 0.9).all():
                return h.mean()
            return self.a(h).mean()

    with pytest.raises(DataDependentError, match="unknown"):
        capture(Early(), (torch.randn(2, 4),))
