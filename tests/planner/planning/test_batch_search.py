"""The largest batch that fits, the budget that is a device's memory, and profiles written for elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.planning.batch_search import Batches
from remat_planner.planner.planning.device_budget import CONTEXT_BYTES, FRAGMENTATION
from remat_planner.tracer.costs.devices import DEVICES
from remat_planner.tracer.costs.profile_file import read_profile
from tests.planner.command_line import Call, written


class Net(nn.Module):
    """Two hidden layers, and a table that does not grow with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))

    def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) + table.sum(0)).square().mean()


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 64), torch.randn(5, 64)


@pytest.mark.slow
def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    model = Net()
    budget = remat_planner.plan(model, inputs(300), budget="95%", costs="h100").budget
    found = remat_planner.fit(model, inputs(8), budget=budget, costs="h100", time_limit=5)
    largest = found.largest.batch
    too_large = min(t.batch for t in found.tries if t.schedule is None)
    assert largest >= 300
    assert 0 < too_large - largest <= max(1, largest // 32)
    assert found.largest.schedule is not None
    assert found.largest.schedule.peak_bytes <= budget
    assert found.largest.schedule.origin.inputs["[0]"] == f"float32[{largest}, 64]"
    with pytest.raises(remat_planner.InfeasibleBudgetError):
        remat_planner.plan(model, inputs(too_large), budget=budget, costs="h100", time_limit=5)


@pytest.mark.slow(on_request=True)
def test_copies_on_the_host_allow_a_larger_batch() -> None:
    model = Net()
    budget = remat_planner.plan(model, inputs(300), budget="min", costs="h100").budget
    without, with_host = (
        remat_planner.fit(model, inputs(256), budget=budget, costs="h100", time_limit=3, offload=offload).largest
        for offload in (None, remat_planner.Offload(host="1GB", link="500GB/s"))
    )
    assert with_host.batch >= without.batch
    assert with_host.schedule is not None
    assert with_host.schedule.peak_bytes <= budget


@pytest.mark.slow(on_request=True)
def test_it_is_halved_where_the_given_batch_is_too_large() -> None:
    found = remat_planner.fit(Net(), inputs(4096), budget="1MB", costs="h100", time_limit=5)
    assert found.largest.batch < 4096
    assert found.tries[-1].batch == 4096
    assert found.tries[-1].minimum is not None
    assert found.tries[-1].minimum > 10**6


@pytest.mark.slow(on_request=True)
def test_gradient_buckets_leave_room_for_fewer() -> None:
    plain, bucketed = (
        remat_planner.fit(Net(), inputs(64), budget="600kB", costs="h100", solver="greedy", time_limit=2, training=training)
        for training in (None, remat_planner.TrainingState(gradient_buckets="copied"))
    )
    assert bucketed.largest.batch < plain.largest.batch
    assert bucketed.largest.schedule is not None
    assert bucketed.largest.schedule.origin.training.gradient_buckets == "copied"


def test_only_inputs_with_as_many_rows_as_the_first_grow() -> None:
    ids, table = torch.arange(6).reshape(2, 3), torch.randn(5, 4, requires_grad=True)
    batches = Batches.of((ids,), {"table": table, "mask": torch.ones(2), "scale": 2.0})
    args, kwargs = batches.inputs(5)
    assert batches.scaled == ("[0]", "['mask']")
    assert batches.tokens == 3
    assert args[0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert kwargs["mask"].shape == (5,)
    assert kwargs["table"] is table
    assert kwargs["scale"] == 2.0


@pytest.mark.slow
def test_a_single_sample_that_does_not_fit_is_infeasible() -> None:
    with pytest.raises(remat_planner.InfeasibleBudgetError) as infeasible:
        remat_planner.fit(Net(), inputs(8), budget="1kB", costs="h100", time_limit=1)
    assert infeasible.value.minimum > 1000


def test_a_share_and_inputs_without_a_batch_are_refused() -> None:
    with pytest.raises(remat_planner.BudgetError, match="grows with the batch"):
        remat_planner.fit(Net(), inputs(8), budget="60%", costs="h100")
    with pytest.raises(remat_planner.BatchError, match="batch dimension"):
        remat_planner.fit(nn.Linear(1, 1), (torch.tensor(1.0),), budget="1GB", costs="h100")


def test_auto_is_the_devices_memory_less_the_reserve() -> None:
    schedule = remat_planner.plan(Net(), inputs(8), budget="auto", costs="h100")
    assert schedule.budget == int((DEVICES["h100"].memory - CONTEXT_BYTES) * (1 - FRAGMENTATION))
    with pytest.raises(remat_planner.BudgetError, match="one GPU"):
        remat_planner.plan(Net(), inputs(8), budget="auto")


@pytest.mark.slow(on_request=True)
def test_the_words_fit_and_auto(call: Call, folder: Path) -> None:
    run = call(
        "fit", "--solver", "greedy", "--time-limit", "20", "--budget", "2MB", "--device", "a100-80gb", "--json", "net.py"
    )
    assert run.code == ExitCode.OK, run.err
    document = json.loads(run.out)
    tried = {t["batch"]: t for t in document["tries"]}
    assert tried[document["largest_batch"]]["peak_bytes"] <= 2 * 10**6
    assert not tried[max(tried)]["fits"]
    shown = call("fit", "--solver", "greedy", "--time-limit", "20", "--budget", "2MB", "--device", "a100-80gb", "net.py")
    assert f"A batch of {document['largest_batch']:,} fits" in " ".join(shown.out.split())
    assert call("fit", "--time-limit", "2", "--budget", "1kB", "--device", "h100", "net.py").code == ExitCode.INFEASIBLE
    assert call("fit", "--time-limit", "2", "--budget", "60%", "net.py").code == ExitCode.USAGE
    assert call("--budget", "auto", "net.py").code == ExitCode.USAGE
    assert written(folder) == set()
    auto = call("--budget", "auto", "--device", "h100", "net.py")
    assert auto.code == ExitCode.OK, auto.err
    assert "of h100 less" in " ".join(auto.out.split())


@pytest.mark.slow
def test_a_profile_is_written_and_planned_with(call: Call, folder: Path) -> None:
    run = call("profile", "net.py", "-o", "cpu.json")
    assert run.code == ExitCode.OK, run.err
    profile = read_profile(folder / "cpu.json")
    assert any(key.startswith("aten") for key in profile.calls)
    planned = call("--budget", "80%", "--costs", "cpu.json", "net.py")
    assert planned.code == ExitCode.OK, planned.err
    schedule = remat_planner.Schedule.load(folder / "net.schedule.json")
    assert schedule.baseline_seconds >= max(entry.seconds for entry in profile.calls.values())
    assert call("profile", "net.py", "-o", "cpu.txt").code == ExitCode.USAGE
