"""``remat_planner.curve``: one capture, and points that are what ``plan`` would find."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner import curve as curve_module
from remat_planner.planner.cli.exit_codes import ExitCode
from tests.planner.command_line import Call


@pytest.mark.slow
@pytest.mark.parametrize("costs", ["measure", "h100"])
def test_a_curve(monkeypatch: pytest.MonkeyPatch, costs: str) -> None:
    traced: list[Any] = []
    really = curve_module.trace_whole
    monkeypatch.setattr(curve_module, "trace_whole", lambda *a, **k: traced.append(1) or really(*a, **k))
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)))
    args, loss = (torch.randn(4096, 64),), lambda output: output.square().mean()
    curve = remat_planner.curve(model, args, points=4, loss=loss, costs=costs, time_limit=10)
    assert len(traced) == 1
    assert [point.budget_bytes for point in curve.points] == sorted({point.budget_bytes for point in curve.points})
    assert len(curve.points) == 4
    assert curve.points[-1].budget_bytes == curve.baseline_peak_bytes
    assert curve.points[-1].overhead == 0
    assert curve.points[0].overhead > 0
    assert all(a.overhead >= b.overhead and a.bound_overhead >= b.bound_overhead for a, b in pairwise(curve.points))
    assert all(point.bound_overhead <= point.overhead + 1e-9 for point in curve.points)
    assert all(point.peak_bytes <= point.budget_bytes for point in curve.points)
    assert {policy.solver for policy in curve.policies} == {"none", "every-n", "chen"}
    # No policy is in the part that the bounds exclude.
    for policy in curve.policies:
        above = [point for point in curve.points if point.budget_bytes >= policy.peak_bytes]
        assert all(policy.overhead >= point.bound_overhead - 1e-9 for point in above)


@pytest.mark.slow
def test_a_curve_of_a_model_with_a_schedule() -> None:
    model, args = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)), (torch.randn(4, 8),)
    schedule = remat_planner.plan(model, args, budget="100%", costs="h100", verify=False)
    with pytest.raises(remat_planner.AlreadyAppliedError, match="has a schedule already"):
        remat_planner.curve(remat_planner.apply_schedule(model, schedule), args)


@pytest.mark.slow
def test_a_second_line_with_copies() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)))
    offload = remat_planner.Offload(host="1GB", link="500GB/s")
    loss = lambda output: output.square().mean()  # noqa: E731
    options: dict[str, Any] = {"points": 3, "loss": loss, "costs": "h100", "time_limit": 2}
    curve = remat_planner.curve(model, (torch.randn(8192, 64),), offload=offload, **options)
    assert all("copies" not in point.assumption for point in curve.points)
    assert curve.with_copies[0].budget_bytes <= curve.points[0].budget_bytes
    assert curve.with_copies[-1].overhead == 0


def test_a_curve_of_one_point() -> None:
    with pytest.raises(ValueError, match="give 2 or more"):
        remat_planner.curve(nn.Linear(2, 2), (torch.randn(2, 2),), points=1)


@pytest.mark.slow(on_request=True)
def test_the_command(call: Call, folder: Path) -> None:
    arguments = ("curve", "net.py", "--points", "3", "--time-limit", "3", "--device", "h100")
    run = call(*arguments, "--json", "--svg", "curve.svg", "--png", "curve.png")
    assert run.code == ExitCode.OK, run.err
    assert len(json.loads(run.out)["points"]) == 3
    assert (folder / "curve.svg").read_bytes().startswith(b"<?xml")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "Extra time against budget" in call(*arguments).out
    assert call("curve", "net.py", "--svg", "absent/curve.svg").code == ExitCode.USAGE
    assert call("curve", "net.py", "--points", "1").code == ExitCode.USAGE
