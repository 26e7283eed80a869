"""Exports, each applied with the real library: eager's bits, and the peak that was predicted for that form."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
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
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.measurement.real_step import one_step
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import Schedule, StaleScheduleError
from tests.zoo import Case

# What eager allocates beside the graph's storages: copies of the random state while a region runs again (some 10 kB), and
# what the profiler sees of Python. Storages themselves are predicted to the byte.
_MARGIN = 0.02


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Block(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(inplace) if inplace else nn.GELU(), nn.Dropout(0.1))
        self.out = nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.mlp(x))


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def plain() -> Case:
    return Case(Net(*(Block() for _ in range(4))), (torch.randn(1024, 64),), {}, _mean_square)


def in_place() -> Case:
    return Case(Net(*(Block(inplace=True) for _ in range(3))), (torch.randn(1024, 64),), {}, _mean_square)


def gpt2(use_cache: bool = False) -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=4,
        n_embd=64,
        vocab_size=200,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        attn_pdrop=0.0,
        use_cache=use_cache,
    )
    tokens = torch.randint(0, 200, (4, 64))
    return Case(transformers.GPT2LMHeadModel(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


def llama() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=200,
        use_cache=False,
    )
    tokens = torch.randint(0, 200, (4, 64))
    return Case(transformers.LlamaForCausalLM(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


CASES: dict[str, Callable[[], Case]] = {"plain": plain, "in_place": in_place, "gpt2": gpt2, "llama": llama}


@functools.cache
def planned(name: str, budget: str) -> tuple[Case, Schedule]:
    torch.manual_seed(0)
    case = CASES[name]()
    # Most are planned on paper, as on a GPU: what solving finds there does not depend on how busy this CPU is.
    costs = "measure" if case.loss is not None and budget == "70%" else "h100"
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, loss=case.loss, budget=budget, costs=costs, time_limit=20)
    assert isinstance(schedule, Schedule)
    return case, schedule


def wrapped(case: Case, code: str) -> nn.Module:
    """A copy of the model on which the exported code was used."""
    model = copy.deepcopy(case.model)
    names: dict[str, Any] = {}
    exec(code, names)
    names["wrap"](model)
    return model


def gradients(model: nn.Module, case: Case) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(1)
    model.zero_grad()
    one_step(model, case.args, case.kwargs, case.loss)()
    found = {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}
    return found | dict(model.named_buffers()) | {"random state": torch.get_rng_state()}


def same(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> bool:
    return one.keys() == other.keys() and all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def peak(model: nn.Module, case: Case, constant: int) -> int:
    one_step(model, case.args, case.kwargs, case.loss)()
    model.zero_grad()
    return constant + measure_peak(one_step(model, case.args, case.kwargs, case.loss))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "budget"),
    [
        *(("plain", "sac", "70%"), ("plain", "modules", "60%"), ("in_place", "sac", "60%"), ("in_place", "modules", "70%")),
        *(("gpt2", "sac", "70%"), ("gpt2", "modules", "60%"), ("gpt2", "transformers", "70%")),
        *(("llama", "sac", "60%"), ("llama", "modules", "70%"), ("llama", "transformers", "60%")),
    ],
)
def test_a_form_gives_eagers_bits_at_the_predicted_peak(name: str, form: str, budget: str):
    case, schedule = planned(name, budget)
    found = remat_planner.export(case.model, schedule, to=form)
    model = wrapped(case, found.code)
    assert same(gradients(model, case), gradients(copy.deepcopy(case.model), case))
    measured = peak(model, case, schedule.graph.constant_bytes)
    assert abs(measured / found.peak_bytes - 1) < _MARGIN
    assert found.within_budget == (found.peak_bytes <= schedule.budget)
    if found.within_budget:
        assert found.overhead >= found.schedule_overhead
        assert found.loss == found.overhead - schedule.overhead
        assert measured <= schedule.budget * (1 + _MARGIN)
    assert found.schedule_overhead == pytest.approx(schedule.overhead)
    assert schedule.peak_bytes <= found.schedule_peak_bytes <= schedule.budget


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_finer_forms_cost_less(name: str):
    case, schedule = planned(name, "70%")
    fine, modules, layers = (remat_planner.export(case.model, schedule, to=form) for form in ("sac", "modules", "transformers"))
    assert fine.within_budget
    assert fine.overhead < modules.overhead <= layers.overhead
    assert any(places for calls in fine.setting["regions"].values() for places in calls.values())


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in FORMS if form != "megatron"])
def test_a_form_that_cannot_meet_the_budget_says_so_and_is_right(form: str):
    case, at_all = planned("gpt2", "60%")
    least = min(remat_planner.export(case.model, at_all, to=each).peak_bytes for each in FORMS)
    budget = int(0.9 * least)
    schedule = replan("gpt2", budget)
    found = remat_planner.export(case.model, schedule, to=form)
    assert not found.within_budget
    assert found.peak_bytes > budget >= found.schedule_peak_bytes
    assert peak(wrapped(case, found.code), case, schedule.graph.constant_bytes) > budget


@functools.cache
def replan(name: str, budget: int) -> Schedule:
    case, _ = planned(name, "70%")
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget=budget, costs="h100", time_limit=2)
    assert isinstance(schedule, Schedule)
    return schedule


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_where_everything_fits_nothing_is_set(form: str):
    case, schedule = planned("gpt2", "70%")
    # Eager holds a little more than the graph does without recomputation.
    found = remat_planner.export(case.model, replan("gpt2", 2 * schedule.baseline_peak_bytes), to=form)
    assert found.within_budget
    assert found.overhead == 0
    assert not any(found.setting.values())
    exec(found.code, {})


@pytest.mark.slow(on_request=True)
def test_a_form_that_beats_its_schedule_says_so():
    case, _ = planned("llama", "70%")
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget="70%", costs="h100", solver="every-n")
    found = remat_planner.export(case.model, schedule, to="sac")
    assert found.within_budget
    assert found.loss < 0
    assert any("cheaper than the schedule" in note for note in found.notes)


# Megatron-LM's own parser lives in its training script, which no package ships: these are its declarations of the options.
def megatron_arguments(line: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recompute-granularity", choices=["full", "selective"])
    parser.add_argument("--recompute-method", choices=["uniform", "block"])
    parser.add_argument("--recompute-num-layers", type=int)
    parser.add_argument("--recompute-modules", nargs="*", type=str)
    return vars(parser.parse_args(line.split()))


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["70%", "60%"])
@pytest.mark.parametrize("name", ["plain", "gpt2", "llama"])
@pytest.mark.filterwarnings("ignore")
def test_megatron_takes_the_line(name: str, budget: str):
    transformer_config = pytest.importorskip("megatron.core.transformer.transformer_config")
    case, schedule = planned(name, budget)
    found = remat_planner.export(case.model, schedule, to="megatron")
    options = megatron_arguments(found.code)
    assert {key: value for key, value in options.items() if value is not None} == found.setting
    layers = 4 if name == "plain" else 2
    config = transformer_config.TransformerConfig(num_layers=layers, hidden_size=64, num_attention_heads=4, **options)
    assert config.recompute_granularity == found.setting["recompute_granularity"]
    assert found.overhead >= found.schedule_overhead or not found.within_budget


def test_megatron_itself_refuses_what_it_does_not_take():
    transformer_config = pytest.importorskip("megatron.core.transformer.transformer_config")
    options = megatron_arguments("--recompute-granularity full")
    with pytest.raises(ValueError, match="recompute_method"):
        transformer_config.TransformerConfig(num_layers=3, hidden_size=64, num_attention_heads=4, **options)


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


def measured(model: nn.Module, x: torch.Tensor, step: EagerStep) -> int:
    return peak(model, Case(model, (x,), {}, _mean_square), step.graph.constant_bytes)


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
