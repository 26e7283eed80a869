"""A model file that wants a GPU, on a machine without one: a plan on paper, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from remat_planner import Schedule
from remat_planner.planner.cli import main
from remat_planner.planner.cli.exit_codes import ExitCode

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

NET = """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Linear(33, 65), nn.GELU(), nn.Linear(65, 33)).cuda()
    return model, torch.randn(7, 33, device="cuda"), lambda output: output.square().mean()
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "absent_gpu_net.py").write_text(NET)
    return "absent_gpu_net.py"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_without_a_named_device_the_error_says_what_to_do(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--budget", "90%", net) == ExitCode.MODEL
    assert "--device" in capsys.readouterr().err


@pytest.mark.slow
def test_with_a_named_device_it_is_planned_and_all_bytes_are_the_allocators(net: str, tmp_path: Path) -> None:
    assert run("--budget", "100%", "--device", "h100", "--time-limit", "5", net) == ExitCode.OK
    graph = Schedule.load(tmp_path / "absent_gpu_net.schedule.json").graph
    weights, biases = 2 * 65 * 33 * 4, (512, 512)  # 65 and 33 numbers of 4 bytes take one block each
    assert graph.constants["parameters"] == 2 * -(-weights // 2 // 512) * 512 + sum(biases)
    assert graph.constants["inputs"] == -(-7 * 33 * 4 // 512) * 512
    assert all(storage.bytes % 512 == 0 for storage in graph.storages)


def test_a_plan_for_an_absent_gpu_is_not_verified(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--budget", "90%", "--device", "h100", "--verify", net) == ExitCode.USAGE
    assert "verify on the device itself" in capsys.readouterr().err
    assert run("--budget", "90%", "--device", "h900", net) == ExitCode.USAGE
    assert "h200" in capsys.readouterr().err
