"""Exports, each applied with the real library: eager's bits, and the peak that was predicted for that form."""

from __future__ import annotations

import argparse
import copy
import functools
from typing import Any

import pytest

import remat_planner
from remat_planner.planner.exports.export import FORMS
from remat_planner.schedules import Schedule
from tests.planner.exports.exported import (
    _MARGIN,
    _one_thread,  # noqa: F401
    gradients,
    peak,
    planned,
    same,
    wrapped,
)


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
