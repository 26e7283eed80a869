"""``plan --compiler inductor``: what it tells, and what it refuses."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest

from remat_planner.planner.cli import compiled
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.partition import CompiledPart, CompiledStep
from remat_planner.tracer.fusion import AtPeak
from tests.planner.command_line import Call, written

PART = CompiledPart((0, 0), 600, 400, 1.1, 1.0, 900, 1.0, ("tanh", "mm"), AtPeak("mm", 300, 200, 100))
STEP = CompiledStep(1000, 980, 990, (PART,), 2)


@pytest.fixture
def compilation(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing is compiled: the step is ``STEP``."""
    called: dict[str, Any] = {}
    monkeypatch.setattr(compiled, "compile", lambda model, *args, **settings: called.update(settings) or model)
    monkeypatch.setattr(compiled, "compiled_step", lambda _: STEP)
    return called


def test_the_figures(call: Call, folder: Path, compilation: dict[str, Any]) -> None:
    run = call("--compiler", "inductor", "-b", "80%", "net.py")
    assert run.code == ExitCode.OK, run.err
    assert compilation["budget"] == "80%"
    assert isinstance(compilation["loss"], types.FunctionType)
    for told in (
        "80 %",
        "990 B measured",
        "980 B predicted",
        "compiled 2 times",
        "10.0 %",
        "2 operators",
        'budget="80%", loss=loss',
    ):
        assert told in run.out
    assert not written(folder)
    document = json.loads(call("--compiler", "inductor", "-b", "80%", "--json", "net.py").out)
    assert (document["peak_bytes"], document["measured_peak_bytes"]) == (980, 990)
    assert document["overhead"] == pytest.approx(0.1)
    assert document["bound"] == pytest.approx(1 / 1.1)
    assert document["graphs"][0]["recomputed"] == ["tanh", "mm"]


def test_ranges_of_sizes(call: Call, compilation: dict[str, Any]) -> None:
    run = call("--compiler", "inductor", "-b", "80%", "--shapes", "rows=2..64", "net.py")
    assert run.code == ExitCode.OK, run.err
    assert compilation["shapes"] == "rows=2..64"
    assert 'loss=loss, shapes="rows=2..64")' in " ".join(run.out.split())


@pytest.mark.parametrize(
    "option", ["--solver ilp", "--offload host", "--regions auto", "--verify", "--output a.json", "--zero 1"]
)
def test_options_that_mean_nothing_are_refused_by_name(option: str, call: Call) -> None:
    run = call("--compiler", "inductor", "-b", "80%", *option.split(), "net.py")
    assert run.code == ExitCode.USAGE
    assert f"{option.split()[0]} means nothing" in run.err


@pytest.mark.slow(on_request=True)
def test_a_real_model(call: Call) -> None:
    run = call("--compiler", "inductor", "-b", "100%", "--json", "net.py")
    assert run.code == ExitCode.OK, run.err
    document = json.loads(run.out)
    assert document["measured_peak_bytes"] <= document["budget_bytes"]
