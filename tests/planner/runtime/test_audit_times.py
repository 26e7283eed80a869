"""When a planned model is audited, and what then costs nothing and stops nothing."""

from __future__ import annotations

import copy
import math
import pickle
import types
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import apply_schedule, plan, verify
from remat_planner.planner.apply import planned_call
from remat_planner.planner.regions import planned_regions
from remat_planner.planner.runtime import audit
from remat_planner.tracer.joint import RecordedForward
from tests.planner.random_schedules import schedule_of
from tests.planner.runtime.audited import Net, X, planned
from tests.tracer.launched import Scaled
from tests.zoo import ZOO, loss_of
from tests.zoo_captures import captured


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
def test_it_waits_where_it_would_be_seen(audits: list[Any]):
    ours = planned(Net(lambda _, h: h * 2))
    ours(X)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        ours(X)
    assert audits == []
    seen: list[Any] = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        ours(X)
    assert audits == []
    x = X.clone().requires_grad_()
    ran: list[torch.Tensor] = []

    def hook(_gradient: torch.Tensor) -> None:
        with torch.enable_grad():
            ran.append(ours(X))

    x.register_hook(hook)
    x.sum().backward()
    assert len(ran) == 1
    assert audits == []
    ours(X)
    assert len(audits) == 1


class Clock:
    """Time as the audits read it. An audit takes ``cost`` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
        self.now, self.spent, self.at = 0.0, 0.0, [0.0]
        monkeypatch.setattr(audit.time, "perf_counter", lambda: self.now)
        self.cost = cost

        def audited(*_: Any) -> None:
            self.now += self.cost
            self.spent += self.cost
            self.at.append(self.now)

        monkeypatch.setattr(audit, "_audit", audited)


@pytest.mark.parametrize(("parts", "seconds"), [(1, 0.01), (1, 7.0), (4, 0.3)])
def test_audits_take_their_share_of_the_time(parts: int, seconds: float, monkeypatch: pytest.MonkeyPatch):
    clock, looks = Clock(monkeypatch, cost=0.5), 0
    due = audit.Audit(parts)
    joint: Any = types.SimpleNamespace(model=nn.Identity())
    while clock.now < 2000 * parts:
        due.calls += 1
        if due.calls >= due.next:
            looks += 1
            due.look(joint, RecordedForward(), (), {})
        clock.now += seconds if clock.now > 100 else seconds / 9  # steps that become slower
        if due.calls == 1:
            assert clock.spent == 0
    assert clock.spent - clock.cost <= 0.01 / parts * clock.now
    longest = max(b - a for a, b in zip(clock.at, clock.at[1:], strict=False))
    assert longest <= 6 * 50 * parts + clock.cost + 2 * seconds
    assert looks <= 25 * len(clock.at)


def test_ranks_audit_in_the_same_steps(monkeypatch: pytest.MonkeyPatch):
    """Their clocks and audits differ, their steps take equally long."""
    joint: Any = types.SimpleNamespace(model=nn.Identity())
    audited: list[list[int]] = []
    for rank in range(3):
        clock, due = Clock(monkeypatch, cost=0.4 + 0.1 * rank), audit.Audit()
        clock.now = 1000.0 * rank
        calls: list[int] = []
        for call in range(1, 1000):
            due.calls += 1
            spent = clock.spent
            if due.calls >= due.next:
                due.look(joint, RecordedForward(), (), {})
            calls += [call] if clock.spent > spent else []
            clock.now += 1.0 + 0.01 * rank - (clock.spent - spent)  # all wait for the one that audits
        audited.append(calls)
    assert audited[0] == audited[1] == audited[2]
    assert len(audited[0]) > 10


def test_no_call_is_looked_at_before_it_is_due(monkeypatch: pytest.MonkeyPatch):
    Clock(monkeypatch, cost=0.5)
    ours = planned(Net(lambda _, h: h * 2))
    calls = planned_call(ours)
    assert calls.audit is not None
    ours(X)
    assert calls.audit.calls == 1
    calls.audit.next = 1000
    monkeypatch.setattr(audit.Audit, "look", lambda *_: pytest.fail("looked"))
    ours(X)


def test_a_recording_that_breaks_stops_nothing(monkeypatch: pytest.MonkeyPatch, said: list[str]):
    monkeypatch.setattr(audit, "SHARE_OF_TIME", math.inf)
    ours = planned(Net(lambda _, h: h * 2))

    def broken(*_: Any) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(audit, "record_forward", broken)
    for _ in range(4):
        ours(X)
    assert len([text for text in said if "could not be audited" in text]) == 1


class Plain(nn.Module):
    """Can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.sum()


@pytest.mark.parametrize("wanted", [True, False])
def test_copies_and_pickles_are_audited_alike(wanted: bool):
    ours = planned(Plain(), audit=wanted, loss=None)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert (planned_call(other).audit is not None) is wanted
    reduced = ours.__reduce_ex__(2)
    assert (planned_call(reduced[0](*reduced[1][:4])).audit is not None) is True  # written before there were audits


@pytest.mark.slow
def test_regions_share_the_time(audits: list[Any]):
    model = Plain()
    schedule = remat_planner.plan(model, (X,), regions="blocks.*", budget="100%", verify=False, time_limit=1)
    apply_schedule(model, schedule)
    for _ in range(3):
        model(X).backward()
    assert len(audits) == 3
    forwards = [*planned_regions(model).values(), *planned_regions(copy.deepcopy(model)).values()]
    assert [forward.planned.audit.parts for forward in forwards] == [3] * 6  # type: ignore[union-attr]
    remat_planner.remove_schedule(model)
    apply_schedule(model, schedule, audit=False)
    assert [forward.planned.audit for forward in planned_regions(model).values()] == [None] * 3


def test_verify_audits_nothing(audits: list[Any]):
    model = Plain()
    schedule = plan(model, (X,), budget="100%", solver="none", verify=False)
    assert verify(model, schedule, (X,)).identical
    assert audits == []


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("name", ZOO)
def test_no_false_alarm_in_the_zoo(name: str, audits: list[Any], said: list[str]):
    case, joint = captured(name)
    before = copy.deepcopy(case.model.state_dict())
    ours = apply_schedule(case.model, schedule_of(joint))
    optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-3)
    steps = 6 if len(joint.ops) < 100 else 3
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(case, ours(*case.args, **case.kwargs)).backward()
        optimizer.step()
    case.model.load_state_dict(before)
    case.model.zero_grad()
    assert len(audits) == steps - 1
    assert not [text for text in said if "audited" in text]


@pytest.mark.slow
@pytest.mark.usefixtures("each_step")
def test_a_function_that_runs_as_it_is_does_not_run_for_an_audit(monkeypatch: pytest.MonkeyPatch, audits: list[Any]):
    runs: list[bool] = []
    original = Scaled.forward
    monkeypatch.setattr(Scaled, "forward", staticmethod(lambda *args: (runs.append(True), original(*args))[1]))
    ours = planned(Net(lambda _, h: Scaled.apply(h, 2.0)))
    runs.clear()
    for _ in range(3):
        ours(X).sum().backward()
    assert len(audits) == 2
    assert len(runs) == 3  # those of the steps
