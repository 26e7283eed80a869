"""A region is captured with the layout in which its gradient arrives, so that its backward sums in eager's order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import RegionSchedule
from remat_planner.planner.regions.arriving_gradients import ArrivingGradients
from tests.autograd_functions import UsesFirst
from tests.planner.regions.helpers import gradients_after, same

_ENDINGS: dict[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {
    "transposed": lambda maps: sum(m.flatten(2).transpose(1, 2) for m in maps),
    "part of a larger one": lambda maps: torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1),
    "expanded": lambda maps: torch.stack([m.sum((2, 3)) / 100 for m in maps], 1),
    "as the output": lambda maps: sum(m.square().flatten(2) for m in maps),
}


class Projections(nn.Module):
    """Convolution and batch norm, whose kernels sum in an order that depends on the gradient's strides."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.project = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32)) for _ in range(2))
        self.ending = ending

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return (_ENDINGS[self.ending]([project(x) for project in self.project]) * 1.7).sigmoid().square().mean()


def projections(ending: str, rows: int = 4) -> tuple[Projections, torch.Tensor]:
    torch.manual_seed(0)
    return Projections(ending).train(), torch.randn(rows, 3, 20, 20)


@pytest.mark.slow
@pytest.mark.parametrize("ending", _ENDINGS)
def test_the_bits_are_eagers(ending: str):
    model, x = projections(ending)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions="project.*")
    layouts = [region.origin.gradient_layouts for region in schedule.regions.values()]
    assert all(layouts) is (ending != "as the output")
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences
    assert found.within_budget


@pytest.mark.slow
def test_a_loaded_schedule_and_a_smaller_batch_keep_the_layout(tmp_path: Path):
    model, x = projections("part of a larger one")
    eager = copy.deepcopy(model)
    remat_planner.plan(model, (x,), budget="100%", regions="project.*").save(tmp_path / "it.json")
    schedule = RegionSchedule.load(tmp_path / "it.json")
    assert schedule.regions["project.0"].origin.gradient_layouts == {0: ((4, 32, 20, 20), (25600, 1, 640, 32))}
    remat_planner.apply_schedule(model, schedule)
    assert same(gradients_after(model, x), gradients_after(eager, x))
    assert same(gradients_after(model, x[:3]), gradients_after(eager, x[:3]))


@pytest.mark.slow(on_request=True)
def test_a_step_whose_gradients_arrive_otherwise_still_runs():
    for planned in _ENDINGS:
        model, x = projections(planned)
        eager = copy.deepcopy(model)
        remat_planner.apply_schedule(model, remat_planner.plan(model, (x,), budget="100%", regions="project.*"))
        for ending in _ENDINGS:
            model.ending = eager.ending = ending
            pairs = zip(gradients_after(model, x, steps=1), gradients_after(eager, x, steps=1), strict=True)
            assert all(torch.allclose(one.double(), other.double(), atol=1e-5) for one, other in pairs)


def test_calls_that_do_not_agree_keep_the_layout_of_the_output():
    arriving = ArrivingGradients()
    x = torch.randn(3, 4, requires_grad=True)
    for transposed in (True, False):
        output = x * 2
        arriving.watch("block", output)
        (output.t().contiguous() if transposed else output).square().sum().backward()
        assert arriving.layouts() == ({"block": {0: ((3, 4), (1, 3))}} if transposed else {})


def test_an_output_that_gets_no_gradient_shows_no_layout():
    arriving = ArrivingGradients()
    x = torch.randn(3, 4, requires_grad=True)
    output, other = x * 2, x * 3
    arriving.watch("block", (output, other))
    UsesFirst.apply(output.t(), other).contiguous().square().sum().backward()
    assert arriving.layouts() == {"block": {0: ((3, 4), (1, 3))}}


class _Transposing(nn.Module):
    """Its input gets a gradient that lies transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(32, 32, 3, padding=1), nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x.transpose(1, 2))).transpose(1, 2)


class _Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.blocks = nn.Linear(32, 32), nn.ModuleList(_Transposing() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(self.before(x))
        return x.square().mean()


@pytest.mark.slow
def test_the_gradient_of_an_input_that_another_operator_made_keeps_its_strides():
    torch.manual_seed(0)
    model, x = _Around(), torch.randn(4, 50, 32)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions="blocks.*", time_limit=2, verify=False)
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences


class _Collecting(nn.Module):
    """Returns what its blocks return, one output of which each block computes the other from."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(16, 16), "down": nn.Linear(16, 16)}) for _ in range(2))
        for block in self.blocks:
            block.forward = lambda x, block=block: _seen_and_used(block, x)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for block in self.blocks:
            x, hidden = block(x)
            found.append(hidden)
        return (x, *found)


def _seen_and_used(block: nn.ModuleDict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = block["up"](x).tanh()
    return block["down"](hidden).exp(), hidden


@pytest.mark.slow
def test_outputs_that_a_region_reads_itself_and_the_model_returns_are_planned():
    """The planner's own look at the gradients that arrive was taken for a user's hook, and refused."""
    torch.manual_seed(0)
    model, x = _Collecting(), torch.randn(32, 16)

    def loss(output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.stack([one.square().mean() for one in output]).sum()

    schedule = remat_planner.plan(model, (x,), budget="100%", regions="blocks.*", loss=loss, time_limit=1, verify=False)
    assert remat_planner.verify(model, schedule, (x,), loss=loss).identical
