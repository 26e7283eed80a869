"""What a form predicts of blocks with a part that is apart, runs once or is not told apart."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

import remat_planner
from remat_planner.planner.exports.eager_checkpointing import CheckpointRegion, EagerStep
from remat_planner.planner.exports.export import FORMS, FormName
from remat_planner.planner.exports.selective_policy import SavedCalls
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import Schedule, StaleScheduleError
from tests.planner.exports.exported import (
    _MARGIN,
    Block,
    Net,
    _mean_square,
    _one_thread,  # noqa: F401
    gpt2,
    gradients,
    measured,
    planned,
    same,
    wrapped,
)
from tests.zoo import Case


class Attention(nn.Module):
    """As Megatron-LM checkpoints: ``core`` of the attention, or groups of layers."""

    checkpointed = False

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 192)
        self.out = nn.Linear(64, 64)

    def core(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.bmm(F.dropout(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), 0.1, self.training), v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        return x + self.out(checkpoint(self.core, q, k, v, use_reentrant=False) if self.checkpointed else self.core(q, k, v))


def eager_step(model: nn.Module, x: torch.Tensor) -> EagerStep:
    step = trace_step(model, (x,), settings=Settings(loss=_mean_square))
    steps = tuple(range(len(step.graph.ops)))
    schedule = Schedule(step.graph, steps, 0, "none", "feasible", 0.0, origin=step.origin)
    return EagerStep(schedule, step.joint)


@pytest.mark.slow
def test_the_core_of_an_attention_is_predicted_as_it_runs():
    torch.manual_seed(0)
    model, x = Net(*(Attention() for _ in range(3))), torch.randn(4, 128, 64)
    step = eager_step(model, x)
    regions = []
    for layer in range(3):
        own = [i for i in step.ops_of(f"layers.{layer}") if step.graph.ops[i].module == f"layers.{layer}"]
        products = [i for i in own if step.graph.ops[i].kind == "bmm"]
        regions.append(CheckpointRegion(tuple(i for i in own if products[0] <= i <= products[-1])))
    predicted = step.cost(regions).peak_bytes
    assert predicted < 0.8 * step.cost().peak_bytes
    Attention.checkpointed = True
    try:
        assert abs(measured(model, x, step) / predicted - 1) < _MARGIN
    finally:
        Attention.checkpointed = False


class Grouped(Net):
    group = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k in range(0, len(self.layers), self.group):
            x = checkpoint(nn.Sequential(*self.layers[k : k + self.group]), x, use_reentrant=False)
        return x


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2, 3])
def test_layers_recomputed_together_are_predicted_as_they_run(group: int):
    torch.manual_seed(0)
    model, x = Net(*(Block() for _ in range(4))), torch.randn(1024, 64)
    step = eager_step(model, x)
    names = [f"layers.{k}" for k in range(4)]
    predicted = step.cost([step.region(*names[k : k + group]) for k in range(0, 4, group)]).peak_bytes
    real = Grouped(*model.layers)
    real.group = group
    assert abs(measured(real, x, step) / predicted - 1) < _MARGIN


class Normalised(nn.Module):
    """A linear layer, batch normalisation and the rest, which is a module of its own or not."""

    def __init__(self, counting: bool) -> None:
        super().__init__()
        self.a = nn.Linear(64, 128)
        self.norm = nn.BatchNorm1d(128)
        self.b = nn.Sequential(nn.GELU(), nn.Linear(128, 64)) if counting else nn.Linear(128, 64)
        self.counting = counting
        if not counting:
            self.norm.num_batches_tracked = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.a(x))
        return x + self.b(h if self.counting else F.gelu(h))


def normalised(counting: bool) -> tuple[Case, Schedule]:
    torch.manual_seed(0)
    case = Case(Net(*(Normalised(counting) for _ in range(3))), (torch.randn(512, 64),), {}, _mean_square)
    schedule = remat_planner.plan(case.model, case.args, budget="85%", loss=case.loss, time_limit=1)
    assert isinstance(schedule, Schedule)
    return case, schedule


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sac", "modules"])
def test_what_must_run_once_is_not_wrapped(form: str):
    case, schedule = normalised(counting=True)
    found = remat_planner.export(case.model, schedule, to=form)
    names = found.setting["regions" if form == "sac" else "modules"]
    assert names
    assert not {"layers.0", "layers.0.norm"}.intersection(names)
    assert "must run once" in found.notes[0]
    assert same(gradients(wrapped(case, found.code), case), gradients(copy.deepcopy(case.model), case))
    with pytest.raises(remat_planner.ExportError, match="must run once") as refused:
        remat_planner.export(case.model, schedule, to="megatron")
    assert refused.value.names == ("layers.0",)


@pytest.mark.slow
def test_what_updates_statistics_is_saved():
    case, schedule = normalised(counting=False)
    found = remat_planner.export(case.model, schedule, to="sac")
    assert found.setting["regions"]
    assert all(calls["aten.native_batch_norm.default"] == [0] for calls in found.setting["regions"].values())
    assert same(gradients(wrapped(case, found.code), case), gradients(copy.deepcopy(case.model), case))
    with pytest.raises(remat_planner.ExportError, match="running statistics, and would do so twice"):
        remat_planner.export(case.model, schedule, to="modules")


def test_the_policy_counts_forward_and_recomputation_apart():
    policy = SavedCalls({"aten.mm.default": [1]})
    asked = []
    for again in (False, False, True, True):
        asked.append(policy(SimpleNamespace(is_recompute=again), torch.ops.aten.mm.default))
    save, recompute = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
    assert asked == [recompute, save, recompute, save]


class Twice(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(layer(x))
        return x


@pytest.mark.slow
def test_a_block_that_is_called_twice_is_not_told_apart():
    torch.manual_seed(0)
    case = Case(Twice(Block(), Block()), (torch.randn(512, 64),), {}, _mean_square)
    schedule = remat_planner.plan(case.model, case.args, budget="80%", loss=case.loss, time_limit=2)
    for form in ("sac", "modules", "megatron"):
        with pytest.raises(remat_planner.ExportError, match="called 2 times"):
            remat_planner.export(case.model, schedule, to=form)


class LossOnly(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> torch.Tensor:
        return self.model(**inputs).loss


@pytest.mark.slow
def test_a_cache_that_would_be_filled_twice_is_refused():
    torch.manual_seed(0)
    case = gpt2(use_cache=True)
    model = LossOnly(case.model)
    schedule = remat_planner.plan(model, (), case.kwargs, budget="80%", costs="h100", solver="every-n")
    for form in ("sac", "modules", "megatron"):
        with pytest.raises(remat_planner.ExportError, match=r"model\.model\.config\.use_cache = False"):
            remat_planner.export(model, schedule, to=form)


def test_the_command_offers_every_form():
    assert get_args(FormName) == tuple(FORMS)


@pytest.mark.slow
def test_what_cannot_be_exported_says_why(monkeypatch: pytest.MonkeyPatch):
    case, schedule = planned("plain", "70%")
    with pytest.raises(remat_planner.ExportError, match="sac, modules, transformers, megatron"):
        remat_planner.export(case.model, schedule, to="magic")
    with pytest.raises(remat_planner.ExportError, match="not a model of transformers"):
        remat_planner.export(case.model, schedule, to="transformers")
    single = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    whole = remat_planner.plan(single, (torch.randn(4, 8),), budget="100%", loss=_mean_square)
    with pytest.raises(remat_planner.ExportError, match="no blocks to checkpoint"):
        remat_planner.export(single, whole, to="modules")
    other = Net(*(Block() for _ in range(2)))
    with pytest.raises(StaleScheduleError, match="another model"):
        remat_planner.export(other, schedule, to="modules")
    case, schedule = planned("llama", "70%")
    monkeypatch.setattr(type(case.model), "activation_checkpointing_enable", lambda self: None)
    with pytest.raises(remat_planner.ExportError, match="no every_n_layers"):
        remat_planner.export(case.model, schedule, to="transformers")


@pytest.mark.slow
def test_a_schedule_from_a_file_and_one_that_is_applied(tmp_path: Any):
    case, schedule = planned("plain", "70%")
    here = remat_planner.export(case.model, schedule, to="sac")
    schedule.save(tmp_path / "it.schedule.json")
    loaded = Schedule.load(tmp_path / "it.schedule.json")
    again = remat_planner.export(case.model, loaded, case.args, case.kwargs, to="sac", loss=case.loss)
    assert again == here
    assert remat_planner.export(remat_planner.apply_schedule(case.model, schedule), schedule, to="sac") == here
