"""A sample of the zoo (``python -m benchmarks.zoo``), and what its parts make of faults and refusals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import remat_planner
from benchmarks.zoo import __main__ as command
from benchmarks.zoo import attempt as attempt_module
from benchmarks.zoo import from_transformers
from benchmarks.zoo.architectures import (
    Architecture,
    Candidate,
    LibraryMissingError,
    NotBuiltError,
    architectures,
    trained_by_eager,
)
from benchmarks.zoo.attempt import FAULTS, Row, attempt
from benchmarks.zoo.diffusers_inputs import possible_inputs
from benchmarks.zoo.limits import limits_section
from benchmarks.zoo.reasons import REASONS, reason_of
from benchmarks.zoo.shrink import SCALES, VOCABULARY, Scale, Shrinker
from benchmarks.zoo.table import append_row, markdown, read_rows, summary
from tests.sampling import some

_NAMES = "albert bloom convnextv2 deit falcon fnet gemma olmo phi segformer squeezebert swin yoso"
SAMPLE = _NAMES.split()
"""Architectures of transformers that are quick to try, none of them among ``tests/zoo.py``."""

ROW = Row("transformers", "gpt2", "GPT2LMHeadModel", seconds=2.5)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempt_module, "_quiet", lambda: None)  # it limits the memory of the whole process


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(4))

    def forward(self, x: torch.Tensor, look: bool = False) -> torch.Tensor:
        for layer in self.layers:
            if not look or layer[0].weight.sum() < 1e9:
                x = x + layer(x).tanh()
        return x


def _small(**inputs: Any) -> Architecture:
    def candidates() -> Iterator[Candidate | str]:
        torch.manual_seed(0)
        yield "a form that cannot be built"
        yield Candidate(_Layers(), (torch.randn(2, 7),))  # eager fails
        yield Candidate(_Layers(), (torch.randn(256, 8),), inputs)

    return Architecture("small", candidates)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sample_of_transformers_is_planned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(from_transformers, "SCALES", (Scale(layers=1), *SCALES))  # half the time
    names = some(SAMPLE)
    chosen = [one for one in architectures("transformers") if one.name in names]
    assert len(chosen) == len(names)
    rows = list(command.tried("transformers", chosen, seconds=300, fresh=False))
    assert [row for row in rows if row.verdict in FAULTS] == []
    assert sum(row.verdict in ("whole", "infeasible") for row in rows) >= len(names) - 1, summary(rows)


@pytest.mark.slow
def test_a_small_architecture_is_planned_whole():
    assert replace(attempt("timm", _small()), seconds=0.0) == Row("timm", "small", "_Layers", "whole")


@pytest.mark.slow
def test_what_is_refused_whole_is_planned_by_regions():
    row = attempt("timm", _small(look=True))
    assert (row.verdict, row.by_regions) in (("regions", True), ("infeasible", True))
    assert row.refusal.startswith("DataDependentError: ")


@pytest.mark.slow
def test_an_infeasible_budget_is_tried_at_its_least(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempt_module, "_BUDGET", "2%")
    row = attempt("timm", _small())
    assert row.verdict == "infeasible"
    assert row.least is not None
    assert 0.02 < row.least < 1


@pytest.mark.slow
def test_a_least_budget_that_the_next_plan_misses_is_found_again():
    asked: list[int | str] = []

    def plan(budget: int | str) -> Any:
        asked.append(budget)
        if budget != "min":
            raise remat_planner.InfeasibleBudgetError("no", budget=70, minimum=80, bottleneck="", proven=False)
        return SimpleNamespace(budget=90, baseline_peak_bytes=100)

    assert attempt_module._within(plan)[1] == 0.9
    assert asked == ["70%", 80, "min"]


def test_errors_are_ours_or_foreign(monkeypatch: pytest.MonkeyPatch):
    for error, verdict in ((remat_planner.BudgetError("12 bytes"), "refused"), (KeyError("slice_scatter"), "foreign error")):

        def fail(*_args: Any, error: Exception = error, **_kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(remat_planner, "verify", fail)
        row = attempt("timm", _small())
        assert (row.verdict, row.detail) == (verdict, f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "verdict"), [("differences", ("step 1: loss",), "wrong"), ("budget_bytes", 1, "over budget")]
)
def test_other_bits_and_peaks_are_seen(monkeypatch: pytest.MonkeyPatch, field: str, value: Any, verdict: str):
    verify = remat_planner.verify

    def altered(*args: Any, **kwargs: Any) -> Any:
        return replace(verify(*args, **kwargs), **{field: value, "identical": field != "differences"})

    monkeypatch.setattr(remat_planner, "verify", altered)
    row = attempt("timm", _small())
    assert row.verdict == verdict
    assert row.detail


def test_what_eager_does_not_train_says_why():
    row = attempt("timm", Architecture("none", lambda: iter(["it needs a hub"])))
    assert (row.verdict, row.detail) == ("not trained by eager", "it needs a hub")
    with pytest.raises(NotBuiltError, match="nothing is known"):
        trained_by_eager(Architecture("none", lambda: iter([])))


def test_what_cannot_be_trained_is_told_from_what_the_zoo_does_not_know():
    class Frozen(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).detach()

    forms = ["ValueError: 5 dimensions", Candidate(Frozen(8, 8), (torch.randn(2, 8),))]
    row = attempt("timm", Architecture("frozen", lambda: iter(forms)))
    assert (row.verdict, row.detail) == ("not trainable", "NotBuiltError: no output has a gradient")
    row = attempt("timm", Architecture("lacking", lambda: iter(["ValueError: 5", "ImportError: it requires pyg-lib"])))
    assert (row.verdict, row.detail) == ("not trainable", "ImportError: it requires pyg-lib")
    assert "0 of 0" in summary([row])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LibraryMissingError, match="pip install timm"):
        architectures("timm")


def test_numbers_are_shrunk_by_their_names():
    shrink = Shrinker(Scale())
    assert shrink("hidden_size", 4096) == 64
    assert shrink("num_attention_heads", 32) * shrink("head_dim", 128) == 64
    assert shrink("hidden_sizes", [96, 192, 768]) == [16, 24, 96]
    assert shrink("conv_kernel", [10, 3, 3]) == [10, 3, 3]
    assert shrink("depths", (3, 4, 6, 3)) == (1, 1, 1, 1)
    assert shrink("tie_word_embeddings", True) is True
    image = shrink("image_token_id", 151655)
    assert image == shrink("image_token_index", 32000) < VOCABULARY
    assert image != shrink("audio_token_id", 151646)
    assert sum(shrink("rope_parameters", {"mrope_section": [16, 24, 24]})["mrope_section"]) == 8


def test_numbers_that_agree_are_divided_alike():
    shrink = Shrinker(Scale(divisor=16))
    assert shrink("hidden_size", 4096) * 2 == shrink("num_heads", 128) * shrink("head_dim", 64)
    assert shrink("embed_dim_per_stage", [96, 192]) == [96, 192]  # a name that no rule knows
    assert shrink("hidden_sizes", [96, 192]) == [6, 12]
    assert shrink("num_hidden_layers", 24) == 2


def test_some_layer_of_each_kind_stays_where_there_are_more_than_the_fewest():
    kinds = [*["sliding"] * 5, "full", *["sliding"] * 5, "linear"]
    assert Shrinker(Scale()).of_layers(kinds, 2) == ["sliding", "sliding"]
    assert Shrinker(Scale(layers=4)).of_layers(kinds, 4) == ["sliding", "sliding", "full", "linear"]
    assert Shrinker(Scale(layers=4)).of_layers([1, 2, 3, 4, 5], 4) == [1, 2, 3, 4]


def test_a_class_for_a_part_has_the_configuration_of_that_part():
    decoder = from_transformers._config_class(transformers.MusicgenForCausalLM, "musicgen")
    assert decoder is transformers.MusicgenDecoderConfig
    assert from_transformers._config_class(transformers.GPT2LMHeadModel, "gpt2") is transformers.GPT2Config
    assert not from_transformers._has_forward(transformers.BarkModel)


def test_widths_of_inputs_are_corrected_by_what_the_model_says():
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm, self.text = nn.Conv2d(12, 16, 2, 2), nn.LayerNorm(40), nn.Linear(40, 16)

        def forward(
            self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, timestep: torch.Tensor
        ) -> torch.Tensor:
            text = self.text(self.norm(encoder_hidden_states)).mean(1)
            return self.patches(hidden_states) + (text + timestep[:, None])[..., None, None]

    forms = [form for form in possible_inputs(Denoiser()) if isinstance(form, dict)]
    assert forms[0]["hidden_states"].shape == (2, 12, 16, 16)
    assert forms[0]["encoder_hidden_states"].shape == (2, 8, 40)


def test_rows_are_kept_and_counted(tmp_path: Path):
    output = tmp_path / "zoo.md"
    refusal = "DataDependentError: m.py:3: the code reads a value from a tensor (aten::item), and the value is unknown"
    rows = [
        ROW,
        replace(ROW, name="led", verdict="regions", by_regions=True, refusal=refusal),
        replace(ROW, name="sew", verdict="refused", by_regions=True, refusal=refusal, detail="RegionError: no repeated blocks"),
        replace(ROW, name="bart", verdict="infeasible", least=0.8),
        replace(ROW, name="x", verdict="not trained by eager"),
    ]
    for row in rows:
        append_row(output, row)
    assert read_rows(output) == rows
    assert "2 of 4 (50%) | 3 of 4 (75%)" in summary(rows)
    assert "a value of parameters, activations or random draws that Python reads | 1 | 1 |" in summary(rows)
    assert "| transformers | bart | GPT2LMHeadModel | infeasible | 80% |  | 2 |" in markdown(rows)
    section = limits_section(rows)
    assert "that Python reads | 2 | 1 | led, sew |" in section
    assert "| transformers | sew | a value of parameters" in section


def test_every_reason_can_be_given():
    assert reason_of("OddError: quite new").title == "other (OddError)"
    assert len({reason.title for reason in REASONS}) == len(REASONS)
    assert all(reason.instead for reason in REASONS)


def test_a_run_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "zoo.md"
    append_row(output, replace(ROW, library="timm", name="small"))
    monkeypatch.setattr(command, "architectures", lambda _: [_small(), Architecture("other", lambda: iter(["nothing"]))])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["zoo", "--library", "timm", "--output", str(output)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert [row.name for row in read_rows(output)] == ["small", "other"]
    assert "| timm | 1 | 1 | 1 of 1 (100%)" in capsys.readouterr().out
    assert "not trained by eager" in output.read_text()
