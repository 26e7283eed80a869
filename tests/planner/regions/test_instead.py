"""Models that cannot be captured whole, and that ``plan`` then plans by regions."""

from __future__ import annotations

import logging
import random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner import InfeasibleBudgetError, RegionSchedule
from remat_planner.planner.errors import RegionError
from remat_planner.tracer.errors import DataDependentError, LossError, NothingToTrainError
from tests.planner.regions.helpers import Block, gradients_after, same


class LayerDrop(nn.Module):
    """Leaves layers out by chance."""

    def __init__(self, rate: float, *, by_python: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.rate, self.by_python = rate, by_python

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            if (random.random() if self.by_python else torch.rand([])) >= self.rate:
                x = layer(x)
        return x.square().mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.softmax(q @ k.mT, -1) @ v)


class Routed(nn.Module):
    """Attention and experts, each of which gets the tokens that choose it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.router = Attention(), nn.Linear(32, 4)
        self.experts = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        scores = self.router(x).softmax(-1)
        for e, expert in enumerate(self.experts):
            chosen = (scores.argmax(-1) == e).nonzero()[:, 0]
            if len(chosen):
                x = x.index_add(0, chosen, expert(x[chosen]) * scores[chosen, e, None])
        return x


class Sparse(nn.Module):
    """A block that takes a sparse matrix, with one inside that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.block = nn.Linear(32, 32), Block()

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        return self.block(torch.relu(torch.sparse.mm(adjacency, self.mix(x))))


class Stacked(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, *more)
        return x.square().mean() if x.mean() < 9 else x.sum()


def _x() -> torch.Tensor:
    return torch.randn(256, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("by_python", [False, True])
def test_blocks_left_out_by_chance_are_planned_and_counted(by_python: bool, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    random.seed(0)
    model, x = LayerDrop(0.5, by_python=by_python), _x()
    random_before = torch.get_rng_state(), random.getstate()
    with caplog.at_level(logging.WARNING, "remat_planner"):
        schedule = remat_planner.plan(model, (x,), budget="75%", time_limit=3)
    assert isinstance(schedule, RegionSchedule)
    assert list(schedule.regions) == [f"layers.{k}" for k in range(4)]
    said = [record.getMessage() for record in caplog.records if "planned by regions" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("LayerDrop is planned by regions (layers.0-3), since it cannot be captured whole: ")
    assert torch.equal(torch.get_rng_state(), random_before[0])
    assert random.getstate() == random_before[1]
    random.seed(2)
    eager = gradients_after(model, x, steps=4)
    random.seed(2)
    assert same(gradients_after(remat_planner.apply_schedule(model, schedule), x, steps=4), eager)
    remat_planner.remove_schedule(model)
    model.rate = 0.0  # all are called, which no draw of the planned steps may have done
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.measured_peak_bytes <= schedule.budget


@pytest.mark.slow
def test_inside_a_block_that_cannot_be_captured_its_parts_are_planned():
    torch.manual_seed(0)
    model, x = Stacked(Routed(), Routed()), _x()
    schedule = remat_planner.plan(model, (x,), budget="90%", time_limit=3)
    assert isinstance(schedule, RegionSchedule)
    assert list(schedule.regions) == ["layers.0.attention", "layers.1.attention"], "experts get other numbers in each step"
    assert remat_planner.verify(model, schedule, (x,)).identical


@pytest.mark.slow
@pytest.mark.parametrize("regions", ["auto", "layers.*"])
def test_a_sparse_tensor_at_a_border_is_an_input_of_the_region(regions: str):
    torch.manual_seed(0)
    model, x = Stacked(Sparse(), Sparse()), _x()
    call = (x, torch.eye(256).to_sparse())
    schedule = remat_planner.plan(model, call, budget="100%", time_limit=3, regions=regions)
    assert isinstance(schedule, RegionSchedule)
    assert list(schedule.regions) == ["layers.0", "layers.1"]
    found = remat_planner.verify(model, schedule, call)
    assert found.identical
    assert found.measured_peak_bytes <= schedule.budget


def test_where_regions_cannot_help_the_first_refusal_stays():
    model, x = nn.Linear(8, 8), torch.randn(4, 8)
    with pytest.raises(LossError):
        remat_planner.plan(model, (x,), budget="100%", loss=lambda output: output)
    with pytest.raises(NothingToTrainError):
        remat_planner.plan(model.requires_grad_(False), (x,), budget="100%")


def test_where_no_part_can_be_planned_either_both_reasons_are_given():
    model = Stacked(nn.Linear(32, 32))
    with pytest.raises(
        DataDependentError, match=r"test_instead\.py:\d+: .* By regions it cannot be planned either: .*inside it"
    ):
        remat_planner.plan(model, (_x(),), budget="100%")


@pytest.mark.slow
def test_whole_refuses_and_contradicts_regions():
    model = Stacked(Block(), Block())
    with pytest.raises(DataDependentError, match=r"layers\.0-1 can be captured"):
        remat_planner.plan(model, (_x(),), budget="100%", whole=True)
    with pytest.raises(RegionError, match="leave one of them out"):
        remat_planner.plan(model, (_x(),), budget="100%", whole=True, regions="auto")


@pytest.mark.slow
def test_an_infeasible_budget_says_that_it_is_by_regions():
    model = Stacked(Block(), Block())
    with pytest.raises(InfeasibleBudgetError, match=r"since it cannot be captured whole: .*reads a value"):
        remat_planner.plan(model, (_x(),), budget="1%", time_limit=2)


@pytest.mark.slow
def test_a_plan_holds_for_the_wrapped_and_the_unwrapped_model():
    torch.manual_seed(0)
    model, x = Stacked(Block(), Block()), _x()
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)
    eager = gradients_after(model, x)
    schedule = remat_planner.plan(model, (x,), budget="90%", time_limit=2, regions="layers.*")
    remat_planner.apply_schedule(wrapped, schedule)
    assert same(gradients_after(wrapped, x), eager)
    remat_planner.remove_schedule(wrapped)
    schedule = remat_planner.plan(wrapped, (x,), budget="90%", time_limit=2, regions="layers.*")
    assert list(schedule.regions) == ["module.layers.0", "module.layers.1"]
    assert same(gradients_after(remat_planner.apply_schedule(model, schedule), x), eager)
