"""``plan export``: the text runs, and a form that misses the budget says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.export import _comments
from remat_planner.planner.cli.output import printable
from remat_planner.planner.exports import Export
from tests.planner.command_line import Call


@pytest.mark.slow
def test_a_schedule_is_exported_as_text_that_runs(call: Call, folder: Path) -> None:
    assert call("--budget", "80%", "--time-limit", "1", "-q", "net.py").code == ExitCode.OK
    file = "net.schedule.json"
    for form in ("sac", "modules"):
        run = call("export", file, "net.py", "--to", form)
        assert run.code == ExitCode.OK, run.err
        assert run.out.startswith("# Budget")
        assert run.out.count("at the peak") == 2
        names: dict[str, Any] = {}
        exec(run.out, names)
        model = sys.modules["net"].Net()
        names["wrap"](model)
        model(torch.randn(512, 32)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    document = json.loads(call("export", file, "net.py", "--to", "megatron", "--json").out)
    assert document["within_budget"]
    assert document["schedule_peak_bytes"] == remat_planner.Schedule.load(folder / file).peak_bytes
    assert document["code"].startswith("--recompute-granularity ")
    assert document["loss"] == document["overhead"] - document["schedule_overhead"]


@pytest.mark.slow
def test_an_export_that_misses_the_budget_says_so(call: Call, folder: Path) -> None:
    # Most of the memory is outside of the blocks, where only the schedule reaches it.
    (folder / "tail.py").write_text(
        "from net import *\nclass Tail(Net):\n    def forward(self, x):\n        x = super().forward(x)\n"
        "        for _ in range(20):\n            x = torch.sin(x)\n        return x\n"
        "def build():\n    return Tail(), torch.randn(512, 32), loss\n"
    )
    assert call("--budget", "50%", "--time-limit", "1", "-q", "tail.py").code == ExitCode.OK
    export = ("export", "tail.schedule.json", "tail.py", "--to")
    run = call(*export, "modules")
    assert run.code == ExitCode.INFEASIBLE
    assert "EXCEEDED" in run.out.splitlines()[0]
    document = json.loads(call(*export, "modules", "--json").out)
    assert document["within_budget"] is False
    assert document["peak_bytes"] > document["budget"] >= document["schedule_peak_bytes"]
    refused = call(*export, "transformers", "--json")
    assert refused.code == ExitCode.MODEL
    assert json.loads(refused.out)["error"]["form"] == "transformers"
    assert call(*export, "magic").code == ExitCode.USAGE
    assert call("export", "absent.json", "tail.py", "--to", "sac").code == ExitCode.USAGE


def test_a_comment_stays_a_comment() -> None:
    exported = Export("sac", {}, "", 100, 90, 0.1, 80, 0.1, notes=("blocks that are not wrapped: a\nimport os",))
    assert [printable(line) for line in _comments(exported)][-1] == "Note      blocks that are not wrapped: a\\nimport os"
