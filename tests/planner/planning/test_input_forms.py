"""Plans for several forms of input at once, and what decides which program a call runs by."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import InfeasibleBudgetError, Schedule, ShapesError, apply_schedule, plan, verify
from remat_planner.planner.apply import planned_call
from remat_planner.planner.cli import main
from remat_planner.planner.measurement.peak import measure_peak


class Net(nn.Module):
    """Attention, batch norm, dropout and a mask that may be left out; computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 64)
        self.norm = nn.BatchNorm1d(64)
        self.outer = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        h = torch.nn.functional.gelu(self.inner(x))
        scores = torch.softmax(h @ h.transpose(1, 2), -1)
        h = self.norm((scores @ h).flatten(0, 1)).view_as(h)
        h = torch.nn.functional.dropout(self.outer(h).tanh(), 0.1, self.training)
        if mask is not None:
            h = h * mask.unsqueeze(-1)
        return {"loss": h.pow(2).mean()}


LENGTHS = (8, 24, 48)


def tokens(length: int) -> torch.Tensor:
    return torch.randn(4, length, 16)


def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the planner's logger says."""
    with caplog.at_level(logging.WARNING, logger="planner"):
        yield caplog


def several(model: nn.Module, budget: str | int = "90%", **options: Any) -> Schedule:
    found = plan(model, shapes=[(tokens(n),) for n in LENGTHS], budget=budget, solver="greedy", **options)
    assert isinstance(found, Schedule)
    return found


def everything_kept(model: nn.Module, args: Any, kwargs: Any, like: Schedule) -> Schedule:
    """Plan for another form without a solver's time."""
    found = plan(model, args, kwargs, budget=like.budget, solver="none")
    assert isinstance(found, Schedule)
    return found


def train_alike(ours: nn.Module, eager: nn.Module, *args: Any, **kwargs: Any) -> None:
    """A step of each from the same random state; gradients, buffers and random state are the same."""
    states = []
    for module in (eager, ours):
        torch.manual_seed(5)
        module.zero_grad()
        module(*args, **kwargs)["loss"].backward()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for one, other in zip(eager.parameters(), ours.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    for name, value in eager.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


@pytest.mark.slow
def test_one_budget_for_all_and_the_worst_form_decides(said: pytest.LogCaptureFixture) -> None:
    model, eager = net(), net()
    schedule = several(model)
    assert len(schedule.forms) == len(LENGTHS)
    assert schedule.origin.inputs == {"[0]": "float32[4, 48, 16]"}
    assert schedule.baseline_peak_bytes == max(form.baseline_peak_bytes for form in schedule.forms)
    assert {form.budget for form in schedule.forms} == {int(0.9 * schedule.baseline_peak_bytes)}
    assert any(form.baseline_peak_bytes > schedule.budget for form in schedule.forms)
    ours = apply_schedule(model, schedule)
    for length in (*LENGTHS, *reversed(LENGTHS)):
        x = tokens(length)
        form = next(f for f in schedule.forms if f.origin.inputs == {"[0]": f"float32[4, {length}, 16]"})
        train_alike(ours, eager, x)
        ours.zero_grad()
        held: list[torch.Tensor] = []

        def step(x: torch.Tensor = x, held: list[torch.Tensor] = held) -> None:
            held.append(ours(x)["loss"])
            held[0].backward()

        measured = form.graph.constant_bytes + measure_peak(step)
        assert measured <= schedule.budget
        assert abs(measured - form.peak_bytes) <= 0.02 * form.peak_bytes
        eager.load_state_dict(ours.state_dict())
        found = verify(model, schedule, (x,))
        assert found.identical
        assert found.within_budget
        assert found.predicted_peak_bytes == form.peak_bytes
    assert said.messages == []


@pytest.mark.slow
def test_a_file_holds_all_forms_and_plans_none_again(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    schedule = several(net())
    schedule.save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json")
    assert [form.steps for form in loaded.forms] == [form.steps for form in schedule.forms]
    assert [form.fingerprint for form in loaded.forms] == [form.fingerprint for form in schedule.forms]
    model, eager = net(), net()
    ours = apply_schedule(model, loaded)
    for length in (24, 8, 48, 8, 24):
        train_alike(ours, eager, tokens(length))
    assert said.messages == []
    assert {planned.schedule for planned in planned_call(ours).programs} == set(loaded.forms)


@pytest.mark.slow
def test_a_form_that_was_not_planned_is_planned_once(said: pytest.LogCaptureFixture) -> None:
    model, eager = net(), net()
    ours = apply_schedule(model, several(model))
    for _ in range(2):
        train_alike(ours, eager, tokens(16))
        train_alike(ours, eager, tokens(48))
    (planned_again,) = said.messages
    assert "float32[4, 16, 16]" in planned_again  # the length is the width by chance: this form is planned by itself
    budgets = {planned.schedule.budget for planned in planned_call(ours).programs}
    assert len(budgets) == 1


@pytest.mark.slow
def test_a_new_form_that_does_not_fit_is_refused_by_name() -> None:
    model = net()
    ours = apply_schedule(model, several(model))
    with pytest.raises(InfeasibleBudgetError, match=r"float32\[64, 48, 16\]") as refused:
        ours(torch.randn(64, 48, 16))
    assert refused.value.inputs == {"[0]": "float32[64, 48, 16]"}


@pytest.mark.slow(on_request=True)
def test_copies_and_pickles_have_all_forms(said: pytest.LogCaptureFixture) -> None:
    model, eager = net(), net()
    ours = apply_schedule(model, several(model))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        for length in LENGTHS:
            train_alike(copied, copy.deepcopy(eager), tokens(length))
            copied.load_state_dict(eager.state_dict())
    assert said.messages == []


@pytest.mark.slow
def test_forms_are_given_as_a_model_is_called(said: pytest.LogCaptureFixture) -> None:
    model, eager = net(), net()
    mask = torch.ones(4, 8)
    schedule = plan(
        model,
        (tokens(8),),
        shapes=[tokens(24), {"x": tokens(8), "mask": mask}, ((tokens(8),), {"mask": mask}), [tokens(8), mask], (tokens(24),)],
        budget="100%",
        solver="none",
    )
    assert isinstance(schedule, Schedule)
    assert len(schedule.forms) == 5  # the last one is the second again
    ours = apply_schedule(model, schedule)
    train_alike(ours, eager, tokens(8))
    train_alike(ours, eager, tokens(24))
    train_alike(ours, eager, x=tokens(8), mask=mask)
    train_alike(ours, eager, tokens(8), mask=mask)
    train_alike(ours, eager, tokens(8), mask)
    assert said.messages == []


@pytest.mark.parametrize(
    ("shapes", "number", "match"),
    [
        ([], None, "empty"),
        (tokens(8), None, "not a list"),
        ([(4, 8)], 0, "torch.zeros"),
        ([tokens(8), "x"], 1, "a str"),
        ([{3: tokens(8)}], 0, "not strings"),
    ],
)
def test_a_bad_form_is_refused(shapes: Any, number: int | None, match: str) -> None:
    with pytest.raises(ShapesError, match=match) as refused:
        plan(net(), shapes=shapes, budget="100%")
    assert refused.value.number == number


@pytest.mark.slow(on_request=True)
def test_an_infeasible_budget_names_the_form_that_needs_most() -> None:
    model = net()
    with pytest.raises(InfeasibleBudgetError, match=r"float32\[4, 48, 16\].*one of 3 forms") as refused:
        several(model, budget=20_000)
    assert refused.value.inputs == {"[0]": "float32[4, 48, 16]"}
    schedule = several(model, budget=refused.value.minimum)
    assert max(form.peak_bytes for form in schedule.forms) <= refused.value.minimum


def test_regions_are_for_one_form() -> None:
    with pytest.raises(remat_planner.RegionError, match="shapes"):
        plan(net(), shapes=[tokens(8)], budget="100%", regions="inner")


# ------------------------------------------------------------------------------- what decides the program of a call


@pytest.mark.slow
def test_each_of_shape_dtype_mode_and_autocast_has_its_own_program(said: pytest.LogCaptureFixture) -> None:
    model, eager = net(), net()
    ours = apply_schedule(model, plan(model, (tokens(8),), budget="10MB", solver="none"))

    def frozen_norm(training: bool) -> None:
        for module in (ours, eager):
            module.norm.train(training)

    def calls() -> None:
        train_alike(ours, eager, tokens(8))
        train_alike(ours, eager, tokens(24))
        frozen_norm(False)
        train_alike(ours, eager, tokens(8))
        frozen_norm(True)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                train_alike(ours, eager, tokens(8))
        for module in (ours, eager):
            module.double()
        train_alike(ours, eager, tokens(8).double())
        for module in (ours, eager):
            module.float()
        train_alike(ours, eager, tokens(8))

    calls()
    expected = ("float32[4, 24, 16]", "norm in evaluation mode", "autocast to bfloat16", "autocast to float16", "float64")
    assert len(said.messages) == len(expected)
    assert all(words in message for words, message in zip(expected, said.messages, strict=True))
    calls()
    assert len(said.messages) == len(expected), "a program was not found again"


@pytest.mark.slow
def test_a_loaded_plan_knows_its_mode_and_autocast(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.json"
    model = net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.norm.eval()
        plan(model, (tokens(8),), budget="10MB", solver="none").save(path)
    model, eager = net(), net()
    ours = apply_schedule(model, Schedule.load(path), replan=everything_kept)
    assert planned_call(ours).schedule.origin.modes == {"norm": "evaluation"}
    train_alike(ours, eager, tokens(8))  # float32, everything in training mode: another step, planned for itself
    assert len(said.messages) == 1
    model.norm.eval()
    eager.norm.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_alike(ours, eager, tokens(8))
    assert len(said.messages) == 1, "the loaded plan was not used for the step that it is for"


@pytest.mark.slow
def test_a_loaded_plan_for_evaluation_mode_is_used_in_it(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    plan(net().eval(), (tokens(8),), budget="10MB", solver="none").save(path)
    model, eager = net().eval(), net().eval()
    ours = apply_schedule(model, Schedule.load(path))
    train_alike(ours, eager, tokens(8))
    assert planned_call(ours).programs, "it ran in eager"


@pytest.mark.slow(on_request=True)
def test_the_report_of_a_file_has_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = several(net())
    schedule.save(tmp_path / "s.json")
    for option in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["show", str(tmp_path / "s.json"), *option])
        assert ended.value.code == 0
    printed, _, document = capsys.readouterr().out.partition("\n{\n")
    for length in LENGTHS:
        assert f"float32[4, {length}, 16]" in printed
    forms = json.loads("{" + document)["forms"]
    assert [form["peak_bytes"] for form in forms] == [form.peak_bytes for form in schedule.forms]
