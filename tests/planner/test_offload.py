"""Plans with copies to a disk, from the call of ``plan`` to training, and what reports say of them."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType
from torch import nn

import remat_planner
from remat_planner import Offload, apply_schedule, plan, verify
from remat_planner.planner.apply import planned_call
from remat_planner.planner.errors import OffloadError, VerificationError
from remat_planner.planner.planning import profile_step, settings_of
from remat_planner.planner.reports import (
    explain,
    explanation_report,
    plan_document,
    plan_report,
    summarize,
    summarize_verification,
    verification_report,
)
from remat_planner.schedules import Channel, Schedule, simulate
from remat_planner.tracer.costs.conditions import processor
from remat_planner.tracer.costs.profile_file import ProfiledLink, write_profile
from remat_planner.tracer.lower import pairs
from tests.planner.copying_solver import CopySaved
from tests.solvers.methods.test_offload import compile_all


def printed(report: RenderableType) -> str:
    """The report on a terminal of 400 columns."""
    console = Console(file=io.StringIO(), width=400)
    console.print(report)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _planned(folder: Path, **options: Any) -> tuple[Net, Schedule]:
    torch.manual_seed(0)
    net = Net()
    asked: dict[str, Any] = {
        "budget": "100%",
        "solver": CopySaved(),
        "loss": _loss,
        "offload": Offload(disk="100MB", folder=folder, disk_link="out=1GB/s,in=2GB/s"),
    }
    schedule = plan(net, (torch.randn(256, 32),), **asked | options)
    assert isinstance(schedule, Schedule)
    return net, schedule


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Schedule, Path]:
    folder = tmp_path_factory.mktemp("scratch")
    return *_planned(folder), folder


Case = tuple[Net, Schedule, Path]


@pytest.mark.slow
def test_the_plan_copies_and_is_verified(case: Case) -> None:
    net, schedule, _ = case
    assert schedule.graph.pools[0].budget == 10**8
    assert schedule.peak_bytes < 0.8 * schedule.baseline_peak_bytes
    found = verify(net, schedule, (torch.randn(256, 32),))
    assert found.identical
    assert found.measured_peak_bytes == pytest.approx(found.predicted_peak_bytes, rel=0.01)
    assert found.pool_bytes == simulate(schedule.graph, schedule.steps).pool_peaks
    assert found.times is not None
    assert (found.times.predicted_planned, found.times.predicted_eager) == (schedule.seconds, schedule.baseline_seconds)
    assert f"; predicted {schedule.overhead:+.1%}" in printed(verification_report(summarize_verification(found)))


@pytest.mark.slow
def test_a_loaded_plan_asks_for_the_folder_and_other_forms_keep_the_pools(case: Case, tmp_path: Path) -> None:
    net, schedule, folder = case
    schedule.save(tmp_path / "net.json")
    loaded = Schedule.load(tmp_path / "net.json")
    assert loaded.graph.pools == schedule.graph.pools
    with pytest.raises(OffloadError, match="disk_folder="):
        verify(net, loaded, (torch.randn(256, 32),), loss=_loss)
    assert verify(net, loaded, (torch.randn(256, 32),), loss=_loss, disk_folder=folder).identical
    assert settings_of(loaded).pools == settings_of(schedule).pools == schedule.graph.pools
    eager = copy.deepcopy(net)
    planned = apply_schedule(net, schedule)
    for rows in (256, 64):
        x = torch.randn(rows, 32)
        for model in (planned, eager):
            model.zero_grad()
            _loss(model(x)).backward()
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), eager.parameters(), strict=True))  # type: ignore[arg-type]
    programs = planned._planned.programs
    assert [program.schedule.graph.pools for program in programs] == [schedule.graph.pools] * 2


@pytest.mark.slow
def test_the_report_says_what_is_copied_where_and_when(case: Case) -> None:
    _, schedule, _ = case
    summary = summarize(schedule)
    text = printed(plan_report(summary, understood=""))
    assert "copied" in {group.decision for group in summary.activations}
    assert "1.000 GB/s (given)" in text
    assert "to disk" in text
    assert "from disk" in text
    document = plan_document(summary)["offload"]
    use = document["pools"]["disk"]
    assert use["bytes"] == schedule.simulation.pool_peaks["disk"]
    assert use["outgoing"]["bytes"] == use["incoming"]["bytes"] > 0
    assert use["outgoing"]["busy_seconds"] == pytest.approx(use["outgoing"]["bytes"] / 1e9)
    assert document["stalled_seconds"] > 0
    traffic = schedule.simulation.traffic
    assert traffic is not None
    assert document["stalled_seconds"] == pytest.approx(traffic.timing.stall.sum())
    explained = [e for e in explain(schedule, "gelu") if e.decision == "copied"]
    (only,) = explained[0].copies
    spans = explained[0].alive
    assert (spans[0][1], spans[1][0]) == (only.released, only.returns[0][0])
    assert only.leaves < only.released < only.returns[0][0] < only.returns[0][1]
    told = printed(explanation_report(schedule, None, explained))
    assert f"released in step {only.released}" in told
    assert f"read first in step {only.returns[0][1]}" in told
    assert "stalls the device for" in told


def test_without_copies_the_report_has_no_word_of_them(case: Case) -> None:
    net, schedule, _ = case
    plain = plan(net, (torch.randn(256, 32),), budget="100%", solver="none", loss=_loss, verify=False)
    assert plain.graph.pools == ()
    assert plan_document(summarize(plain))["offload"] is None
    assert plain.fingerprint == schedule.fingerprint


@pytest.mark.slow
def test_a_saving_that_is_free_takes_nothing_from_plans_with_pools(tmp_path: Path) -> None:
    """Steps with copies are no steps of the graph without pools."""
    net, schedule = _planned(tmp_path, solver="auto", time_limit=0.3, verify=False)
    plain = plan(net, (torch.randn(256, 32),), budget="100%", loss=_loss, time_limit=0.3, verify=False)
    assert max(plain.steps) < len(plain.graph.ops)
    assert max(schedule.steps) < len(schedule.graph.actions)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*measured under other conditions")
def test_a_plan_by_a_gpus_profile_takes_its_link_and_is_not_run_on_the_cpu(case: Case, tmp_path: Path) -> None:
    net, path = case[0], tmp_path / "gpu.json"
    measured = profile_step(net, (torch.randn(256, 32),), path=path, loss=_loss)
    channel = Channel(20e9, source="measured")
    link = ProfiledLink(host=processor(), outgoing=channel, incoming=channel)
    write_profile(measured.model_copy(update={"threads": 0, "link": link}), path)
    options: dict[str, Any] = {"budget": "100%", "solver": CopySaved(), "loss": _loss, "offload": Offload(host="1GB")}
    with pytest.raises(VerificationError, match="copies activations from a GPU, and the model is on the CPU"):
        plan(net, (torch.randn(256, 32),), costs=str(path), verify=True, **options)
    schedule = plan(net, (torch.randn(256, 32),), costs=str(path), verify=False, **options)
    assert isinstance(schedule, Schedule)
    assert schedule.graph.pools[0].outgoing == channel
    assert schedule.pool_peak_bytes["host"] > 0
    with pytest.raises(OffloadError, match="plan with offload to a disk"):
        apply_schedule(net, schedule)(torch.randn(256, 32))


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build has no mkldnn")
def test_the_leaner_form_of_a_step_copies_too(tmp_path: Path) -> None:
    """The gradients of a convolution one after the other, and copies beside them: less than either alone takes."""
    torch.manual_seed(0)
    wide = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    net, x = nn.Sequential(*wide, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 10)), torch.randn(8, 3, 16, 16)
    options: dict[str, Any] = {"loss": _loss, "budget": "min", "verify": False}
    offload = Offload(disk="100MB", folder=tmp_path, disk_link="5GB/s")
    compile_all()
    in_eagers_form = plan(net, (x,), solver="offload", time_limit=1, offload=offload, **options)
    schedule = plan(net, (x,), time_limit=2, offload=offload, **options)
    assert pairs(schedule.graph)
    assert schedule.pool_peak_bytes["disk"] > 0
    assert schedule.peak_bytes < in_eagers_form.peak_bytes
    found = verify(net, schedule, (x,))
    assert found.identical, found.differences
    assert found.measured_peak_bytes == found.predicted_peak_bytes


@pytest.mark.slow
def test_a_compiled_model_is_planned_anew_without_copies(tmp_path: Path) -> None:
    """A plan that may copy and need not is compiled; a form that comes later must be too."""
    net, schedule = _planned(tmp_path, solver="none", verify=False)
    assert schedule.graph.pools
    schedule.save(tmp_path / "net.json")
    planned = apply_schedule(net, Schedule.load(tmp_path / "net.json"), loss=_loss, compiler="inductor")
    call = planned_call(planned)
    anew = call.replan(net, (torch.randn(64, 32),), {}, call.schedule)
    assert (anew.graph.pools, anew.pool_peak_bytes) == ((), {})


def test_public_names() -> None:
    assert remat_planner.Offload is Offload
    assert remat_planner.OffloadError is OffloadError
