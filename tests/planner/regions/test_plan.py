"""Plans by regions: the measured step, one budget for all of it, and eager's bits."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import InfeasibleBudgetError, RegionError
from remat_planner.tracer.errors import DataDependentError
from tests.planner.regions.helpers import Block, decoder, gradients_after, same
from tests.zoo import ZOO


@pytest.mark.slow
def test_a_branch_between_blocks_is_refused_whole_and_planned_by_regions():
    model, tokens = decoder()
    with pytest.raises(DataDependentError, match=r'layers\.0-2 can be captured: regions="auto"'):
        remat_planner.plan(model, (tokens,), budget="60%", whole=True)
    eager = gradients_after(model, tokens)
    for budget in ("100%", "70%", "55%"):
        schedule = remat_planner.plan(model, (tokens,), budget=budget, regions="auto")
        assert list(schedule.regions) == [f"layers.{k}" for k in range(3)]
        assert schedule.peak_bytes <= schedule.budget
        found = remat_planner.verify(model, schedule, (tokens,))
        assert found.identical, found.differences
        assert found.within_budget
        assert found.measured_peak_bytes == found.predicted_peak_bytes == schedule.peak_bytes
        planned = remat_planner.apply_schedule(model, schedule)
        assert planned is model
        assert same(gradients_after(model, tokens), eager)
        assert remat_planner.remove_schedule(model) is model
        assert "forward" not in vars(model.layers[0])
    assert any(len(region.steps) > len(region.graph.ops) for region in schedule.regions.values())


@pytest.mark.slow(on_request=True)
def test_more_budget_never_takes_longer_and_the_least_that_is_named_holds():
    model, tokens = decoder()
    with pytest.raises(InfeasibleBudgetError) as caught:
        remat_planner.plan(model, (tokens,), budget="5%", regions=Block)
    least = remat_planner.plan(model, (tokens,), budget=caught.value.minimum, regions=Block)
    assert least.peak_bytes <= caught.value.minimum
    assert least.seconds >= least.baseline_seconds
    assert remat_planner.verify(model, least, (tokens,)).within_budget


@pytest.mark.slow
def test_the_optimizer_is_counted():
    model, tokens = decoder()
    plain = remat_planner.plan(model, (tokens,), budget="100%", regions="auto")
    counted = remat_planner.plan(model, (tokens,), budget="100%", regions="auto", optimizer="adamw")
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert 0 <= counted.constants["optimizer"] - 2 * parameters < 1000
    assert counted.peak_bytes - plain.peak_bytes >= 2 * parameters


@pytest.mark.slow
@pytest.mark.parametrize("regions", ["transformer.h.*", "GPT2Block", "auto"])
def test_gpt2(regions: str):
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    kwargs = {**case.kwargs, "use_cache": False}
    schedule = remat_planner.plan(case.model, (), kwargs, budget="75%", regions=regions)
    assert list(schedule.regions) == ["transformer.h.0", "transformer.h.1"]
    graphs = {region.fingerprint for region in schedule.regions.values()}
    assert len(graphs) == 1, "identical blocks have one graph"
    found = remat_planner.verify(case.model, schedule, (), kwargs)
    assert found.identical, found.differences
    assert found.within_budget


def test_what_a_run_is_needed_for_is_refused_on_paper():
    model, tokens = decoder()
    with pytest.raises(RegionError, match="on paper"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*", costs="h100")
    with pytest.raises(RegionError, match="shard"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*", training=remat_planner.TrainingState(shard=2))


@pytest.mark.slow(on_request=True)
def test_a_process_that_has_not_loaded_fsdp_plans_by_regions():
    code = """
import sys, torch, remat_planner
assert "torch.distributed.fsdp" not in sys.modules
model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU()) for _ in range(3)))
remat_planner.plan(model, (torch.randn(64, 16),), budget="90%", regions="*")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_planning_leaves_the_model_as_it_was():
    model, tokens = decoder()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    random = torch.get_rng_state()
    remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert all(p.grad is None for p in model.parameters())


def test_what_hooks_of_parameters_leave_in_python_state_is_put_back():
    order: list[int] = []
    blocks = [nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)) for _ in range(2)]
    model, x = nn.Sequential(nn.Sequential(*blocks), nn.Linear(8, 2)), torch.randn(16, 8)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: order.append(len(order)))
    model(x).sum().backward()
    before = list(order)
    for verify in (True, False):
        assert remat_planner.plan(model, (x,), budget="100%", regions="0.*", verify=verify).regions
        assert order == before
