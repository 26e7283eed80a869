"""Plans that may round otherwise than eager: less memory than with eager's bits, close to eager, and said so."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, least_budget, schedule_step, trace_step
from remat_planner.planner.reports import one_line, plan_document, summarize
from remat_planner.schedules import load_schedule

CLASSES = 300


class Speaker(nn.Module):
    """A small language model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(CLASSES, 8), nn.Linear(8, CLASSES, bias=False)
        self.gate, self.up, self.down = nn.Linear(8, 64), nn.Linear(8, 64), nn.Linear(64, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.tokens(tokens)
        h = h + self.down(F.silu(self.gate(h)) * self.up(h))
        return F.cross_entropy(self.head(h).view(-1, CLASSES), tokens.view(-1))


def _gradients(model: nn.Module, of: nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    of.zero_grad()
    model(tokens).backward()
    return [parameter.grad.clone() for parameter in of.parameters()]


@pytest.mark.slow
def test_the_least_budget_is_found_again_in_little_time() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, CLASSES, (8, 64))
    step = trace_step(Speaker(), (tokens,), settings=Settings(time_limit=6, variants="any", costs="h100"))
    least = least_budget(step)  # of more chunks than are tried at first
    hurried = replace(step, settings=replace(step.settings, time_limit=0.01))
    assert schedule_step(hurried, least).peak_bytes <= least


def test_less_memory_is_enough_where_bits_may_differ(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokens = Speaker(), torch.randint(0, CLASSES, (8, 16))
    schedule = remat_planner.plan(model, (tokens,), budget="min", time_limit=3, variants="any", verify=False)
    logits = tokens.numel() * CLASSES * 4
    above = schedule.budget - schedule.graph.constant_bytes - schedule.graph.lasting_bytes
    assert above < logits, "with eager's bits there are two of them beside parameters and gradients"
    path = tmp_path / "schedule.json"
    schedule.save(path)
    loaded = load_schedule(path)
    assert any("head" in what for what in loaded.graph.inexact)
    assert loaded.origin.variants == "any", "other inputs are planned alike"
    found = remat_planner.verify(model, loaded, (tokens,))
    assert found.as_promised
    assert found.within_budget
    summary = summarize(loaded, verification=found)
    assert "close to eager's" in one_line(summary)
    assert "as close as promised" in one_line(summary)
    assert plan_document(summary)["inexact"] == list(loaded.graph.inexact)
    planned = remat_planner.apply_schedule(model, loaded)
    for batch in (8, 6):  # the second runs the code that is for all sizes
        other = torch.randint(0, CLASSES, (batch, 16))
        for one, in_eager in zip(_gradients(planned, model, other), _gradients(model, model, other), strict=True):
            torch.testing.assert_close(one, in_eager)


def test_bits_that_differ_more_than_rounding_does_are_refused() -> None:
    said = remat_planner.Verification(
        identical=False, measured_peak_bytes=1, predicted_peak_bytes=1, budget_bytes=1, close=True, inexact=("in chunks",)
    )
    assert said.as_promised
    assert not remat_planner.Verification(False, 1, 1, 1, close=False, inexact=("in chunks",)).as_promised
    assert not remat_planner.Verification(False, 1, 1, 1, close=True).as_promised, "a plan that promises eager's bits"


def test_what_cannot_be_in_chunks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Smoothed(Speaker):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.head(self.tokens(tokens)).view(-1, CLASSES), tokens.view(-1), label_smoothing=0.1)

    with caplog.at_level(logging.WARNING, "remat_planner"):
        trace_step(Smoothed(), (torch.zeros(2, 4, dtype=torch.long),), settings=Settings(variants="any", costs="h100"))
    assert "nll_loss_forward.0 stays whole: the model uses the logarithms of its probabilities elsewhere too" in caplog.text
    with pytest.raises(remat_planner.VariantsError, match="exact or any"):
        remat_planner.plan(Speaker(), (), budget="min", variants="some")  # type: ignore[arg-type]
    with pytest.raises(remat_planner.RegionError, match="leave variants"):
        remat_planner.plan(Speaker(), (torch.zeros(2, 4, dtype=torch.long),), budget="1GB", regions="down", variants="any")
