"""The examples of training loops: each trains a model twice, in eager and planned, and ends with the same bits."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner

_FOLDER = Path(__file__).resolve().parents[2] / "examples" / "training"
_NEEDS = {
    "huggingface_trainer": ("transformers", "accelerate"),
    "with_accelerate": ("accelerate",),
    "with_lightning": ("lightning",),
    "with_peft": ("transformers", "peft"),
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of the folder as running it would."""
    monkeypatch.syspath_prepend(str(_FOLDER))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"training_example_{name}", _FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def _no_accelerator_left() -> Iterator[None]:
    """Accelerate keeps what the first Accelerator of a process was made with, and refuses another (Trainer makes one too)."""
    yield
    if "accelerate" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


# The others compare what they end with themselves: .ci/run runs them, under torchrun where they need it.
_LOOPS = sorted(path.stem for path in _FOLDER.glob("[!_]*.py") if "from _checked import" in path.read_text(encoding="utf-8"))


def test_there_are_loops() -> None:
    assert {"amp", "huggingface_trainer", "with_lightning"} <= set(_LOOPS)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_accelerator_left")
@pytest.mark.parametrize("name", _LOOPS)
def test_it_ends_where_eager_does(name: str, load: Any, caplog: pytest.LogCaptureFixture):
    for library in _NEEDS.get(name, ()):
        pytest.importorskip(library)
    with caplog.at_level(logging.WARNING, logger="planner"):
        found = load(name).main()
    assert not found.different
    assert found.measured <= found.budget
    assert found.ran_again or found.copied, "nothing was recomputed or copied: the budget asks for nothing"
    assert not [record for record in caplog.records if record.name == "planner"], "the loop's call is not the planned one"


@pytest.mark.slow
def test_the_check_finds_what_differs_and_what_is_over_the_budget(load: Any):
    check = load("_checked").check
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))
    inputs = torch.randn(32, 8)
    schedule = remat_planner.plan(model, (inputs,), loss=torch.sum, budget="100%", costs="h100")
    planned = remat_planner.apply_schedule(model, schedule)

    def step() -> None:
        planned(inputs).sum().backward()

    assert check(remat_planner.remove_schedule(planned), planned, schedule, step).different == ()
    with pytest.raises(SystemExit):
        check(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8)), planned, schedule, step)
    with pytest.raises(SystemExit):
        check(model, planned, schedule, lambda: torch.zeros(schedule.budget))
