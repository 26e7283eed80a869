"""One line and no example inputs: a model that is planned at its first training call."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner
from remat_planner.planner.measurement import StorageMeter
from remat_planner.planner.runtime import PlannedCall, call_of
from remat_planner.tracer import capture

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
X = torch.randn(96, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(96) % 64


class Net(nn.Module):
    """Its output is large beside its activations, so that the bytes of a loss count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)) for _ in range(3)
        )
        self.head = nn.Linear(16, 64)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        logits: torch.Tensor = self.head(x)
        return logits if labels is None else cross_entropy(logits, labels)


def _train(model: nn.Module, step: Callable[[nn.Module], torch.Tensor], steps: int = 3) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    for _ in range(steps):
        step(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def _peak(model: nn.Module, step: Callable[[nn.Module], torch.Tensor]) -> int:
    resident = [X, LABELS, *model.parameters()]
    with StorageMeter(resident) as meter:
        step(model).backward()
    model.zero_grad()
    return meter.peak + sum(tensor.nbytes for tensor in resident)


def _outside(model: nn.Module) -> torch.Tensor:
    logits = model(X)
    smoothed = cross_entropy(logits, LABELS, label_smoothing=0.1)
    return (smoothed + 0.01 * logits.logsumexp(-1).square().mean()) / 2


def _own(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(X, labels=LABELS)
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("step", [_own, _outside], ids=["the model's own", "of the loop"])
def test_training_is_eagers_and_within_the_budget(step: Callable[[nn.Module], torch.Tensor], caplog: Any) -> None:
    eager = _train(Net(), step)
    model = remat_planner.budgeted(Net(), "80%", time_limit=2, verify=False)
    planned = _train(model, step)
    assert all(map(torch.equal, planned, eager))
    schedule = call_of(model).schedule
    assert schedule.budget < schedule.baseline_peak_bytes
    assert _peak(model, step) <= schedule.budget < _peak(Net(), step)
    (line,) = (record.message for record in caplog.records if "first training call" in record.message)
    assert line.startswith("planned Net at its first training call: ")
    loss = "the model's own loss" if step is _own else "the caller's SeenLoss"
    assert schedule.origin.loss == loss


@pytest.mark.slow
@pytest.mark.parametrize(("step", "captures"), [(_own, 1), (_outside, 2)], ids=["the model's own", "of the loop"])
def test_captures(step: Callable[[nn.Module], torch.Tensor], captures: int, monkeypatch: Any) -> None:
    """One for each loss that is planned with: the schedule of the first step is another of the same capture."""
    counted: list[nn.Module] = []
    monkeypatch.setattr("remat_planner.planner.planning.step.capture", lambda *a, **k: counted.append(a[0]) or capture(*a, **k))
    model = remat_planner.budgeted(
        Net(),
        "80%",
        time_limit=2,
        verify=False,
        training=remat_planner.TrainingState(outputs="dropped" if captures > 1 else "held"),
    )
    _train(model, step, steps=3)
    assert len(counted) == captures
    assert call_of(model).schedule.origin.training.outputs == ("dropped" if captures > 1 else "held")


@pytest.mark.slow
def test_a_loss_that_cannot_be_seen(caplog: Any) -> None:
    """The loop's loss takes its gradient by hand: the schedule with the lowest peak stays, and the logger says so."""

    def train(model: nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(1)
        for _ in range(2):
            logits = model(X)
            torch.autograd.backward([logits], [torch.ones_like(logits)])
        return [p.grad for p in model.parameters() if p.grad is not None]

    model = remat_planner.budgeted(Net(), "90%", time_limit=2, verify=False)
    assert all(map(torch.equal, train(model), train(Net())))
    assert "the bytes of the training loop's loss are not counted" in caplog.text
    assert call_of(model).schedule.budget < 0.9 * call_of(model).schedule.baseline_peak_bytes


def test_evaluation_plans_nothing() -> None:
    model = remat_planner.budgeted(Net(), "80%")
    with torch.no_grad():
        model(X)
    model.eval()(X).sum().backward()
    with pytest.raises(remat_planner.NotAppliedError, match="planned at its first training call"):
        _ = call_of(model).schedule
    assert isinstance(remat_planner.remove_schedule(model), Net)


@pytest.mark.slow
def test_copies_and_pickles() -> None:
    model = remat_planner.budgeted(Net(), "80%", loss=_square, time_limit=2, verify=False)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.head.weight is not model.head.weight
        assert _train(copied, lambda m: _square(m(X)), steps=1)
        assert call_of(copied).schedule.budget > 0
    _train(model, lambda m: _square(m(X)), steps=1)
    assert call_of(copy.deepcopy(model)).schedule.steps == call_of(model).schedule.steps


def _square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("eight",), remat_planner.BudgetError),
        (("80%", {"shapes": []}), TypeError),
        (("80%", {"bugdet": 1}), TypeError),
    ],
)
def test_mistakes_are_told_at_once(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    budget, *options = arguments
    with pytest.raises(error):
        remat_planner.budgeted(Net(), budget, **(options[0] if options else {}))


@pytest.mark.slow
def test_the_first_call_says_what_budget_works() -> None:
    with pytest.raises(remat_planner.InfeasibleBudgetError):
        _own(remat_planner.budgeted(Net(), 1000, time_limit=2))


@pytest.mark.slow
def test_a_model_that_is_planned_by_regions(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)

    class Branches(Net):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(x if x.sum() > 1e9 else x * 2, labels)

    eager = _train(Branches(), _own, steps=2)
    model = remat_planner.budgeted(Branches(), "90%", time_limit=2, verify=False)
    assert all(map(torch.equal, _train(model, _own, steps=2), eager))
    assert remat_planner.remove_schedule(model).training


def test_a_batch_on_which_the_forward_raises_does_not_end_the_planning(said: list[str]) -> None:
    class Picky(Net):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            if len(x) == 3:
                raise ValueError("three")
            return super().forward(x, labels)

    net = remat_planner.budgeted(Picky(), "min", time_limit=1)
    cross_entropy(net(X), LABELS).backward()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^three$"):
            net(X[:3])
    cross_entropy(net(X), LABELS).backward()
    assert isinstance(call_of(net), PlannedCall)
    assert not any("bytes of the training loop's loss are not counted" in message for message in said)
