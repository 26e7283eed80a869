"""Steps that differ from the planned one: a shorter batch than the targets, another mode, a model out of a pickle."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner.errors import InfeasibleBudgetError
from tests.planner.runtime.planned_net import equal, gradients

_LABELS = torch.randint(10, (74,), generator=torch.Generator().manual_seed(3))
_X = torch.randn(74, 16, generator=torch.Generator().manual_seed(2))


def _network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Dropout(dropout), nn.GELU(), nn.Linear(64, 10))


def _gradients(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
def test_a_shorter_batch_than_the_targets_of_the_loss_trains(caplog: pytest.LogCaptureFixture):
    model = _network()
    eager = _gradients(model, _X[64:], _LABELS[64:])
    planned = remat_planner.apply_schedule(
        model,
        remat_planner.plan(
            model, (_X[:64],), loss=lambda output: F.cross_entropy(output, _LABELS[:64]), budget="100%", verify=False
        ),
    )
    with caplog.at_level(logging.WARNING, "remat_planner"):
        assert all(map(torch.equal, _gradients(planned, _X[64:], _LABELS[64:]), eager))
    assert any("lambda output, batch" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
def test_the_loss_counts_in_proportion_to_the_outputs():
    model = _network()
    whole = remat_planner.plan(model, (_X[:64],), loss=lambda o: F.cross_entropy(o, _LABELS[:64]), budget="100%", verify=False)
    planned = remat_planner.apply_schedule(model, whole)
    _gradients(planned, _X[:32], _LABELS[:32])
    programs = planned._planned.programs  # type: ignore[union-attr]
    of_loss = [max(op.workspace for op in program.schedule.graph.ops if op.outside) for program in programs]
    assert len(of_loss) == 2
    assert of_loss[0] >= of_loss[1] // 2


@pytest.mark.slow
def test_a_loss_that_takes_the_batch_follows_it():
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.network(x)

    model = Labelled()

    def loss(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(output, batch["labels"])

    def inputs(rows: slice) -> dict[str, torch.Tensor]:
        return {"x": _X[rows], "labels": _LABELS[rows]}

    schedule = remat_planner.plan(model, (), inputs(slice(64)), loss=loss, budget="100%")
    planned = remat_planner.apply_schedule(model, schedule)
    for rows in (slice(64), slice(64, 74)):
        loss(planned(**inputs(rows)), inputs(rows)).backward()
    assert len(planned._planned.programs) == 2  # type: ignore[union-attr]


@pytest.mark.slow
def test_another_mode_gets_the_same_share_and_is_named(caplog: pytest.LogCaptureFixture):
    model = _network(0.1).eval()
    schedule = remat_planner.plan(model, (_X,), budget="100%", time_limit=1, verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    planned.train()
    with caplog.at_level(logging.WARNING, "remat_planner"):
        planned(_X).sum().backward()
    messages = [record.getMessage() for record in caplog.records]
    assert any("another mode or state than the planned one: its budget, 100.0 %" in message for message in messages)
    model.eval()
    least = remat_planner.plan(model, (_X,), budget="min", time_limit=1, verify=False).budget
    in_bytes = remat_planner.plan(model, (_X,), budget=least, time_limit=1, verify=False)
    planned = remat_planner.apply_schedule(model, in_bytes)
    planned.train()
    with pytest.raises(InfeasibleBudgetError, match="The model is in training mode, and the plan is for evaluation mode"):
        planned(_X).sum().backward()


@pytest.mark.slow
def test_a_planned_module_with_a_local_loss_can_be_pickled():
    model = _network()
    schedule = remat_planner.plan(model, (_X,), loss=lambda o: F.cross_entropy(o, _LABELS), budget="100%", verify=False)
    planned = remat_planner.apply_schedule(model, schedule)
    eager = _gradients(model, _X, _LABELS)
    file = io.BytesIO()
    torch.save(planned, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert all(map(torch.equal, _gradients(loaded, _X, _LABELS), eager))
    assert [p.schedule.steps for p in loaded._planned.programs] == [schedule.steps]


class Recurrent(nn.Module):
    """Its first step has no state yet."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] != 8:
            raise KeyError("eight features")
        h = self.inner(x) if self.state is None else self.inner(x) + self.outer(self.state).tanh()
        self.state = h.detach()
        return self.head(h.tanh()).square().mean()


@pytest.mark.slow
def test_a_state_that_the_first_step_had_not_gets_the_least_budget_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    eager = Recurrent()
    model = copy.deepcopy(eager)
    schedule = remat_planner.plan(model, (torch.zeros(32, 8),), budget="min", time_limit=1, verify=False)
    ours = remat_planner.apply_schedule(model, schedule)
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        for k in range(3):
            x = torch.full((32, 8), k / 2)
            for net in (eager, ours):
                net.zero_grad()
                net(x).backward()
            assert equal(*([*gradients(net), net.state] for net in (eager, ours)))
    assert sum("the least for which a schedule was found, is" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(KeyError, match="eight features"):  # as eager does, so that the loop can catch it
        ours(torch.zeros(32, 7))


class Checked(nn.Module):
    """Raises on some batches, after it has drawn and updated its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor, number: int = 0) -> torch.Tensor:
        h = F.dropout(self.norm(self.layer(x)), 0.2)
        if number == 1 or len(x) == 3:
            raise ValueError("a bad batch")
        return h.square().mean()


def test_a_batch_on_which_the_forward_raises_leaves_what_eager_leaves(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    eager = Checked()
    model = copy.deepcopy(eager)
    ours = remat_planner.apply_schedule(model, remat_planner.plan(model, (torch.zeros(6, 8),), budget="100%", verify=False))
    left = []
    for net in (eager, ours):
        torch.manual_seed(1)
        net(torch.ones(6, 8)).backward()
        for call in ((torch.ones(6, 8), 1), (torch.ones(3, 8),)):
            with pytest.raises(ValueError, match="a bad batch"):
                net(*call)
        net(torch.ones(4, 8)).backward()
        left.append([*gradients(net), *net.buffers(), torch.get_rng_state()])
    assert equal(*left)
    assert "for each size of its inputs" not in caplog.text
