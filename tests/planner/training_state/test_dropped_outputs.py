"""A loop that drops the model's outputs before its backward: what is planned, what it takes, and what is said of one that does
not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner
from remat_planner.planner.measurement import StorageMeter
from remat_planner.schedules import Schedule, TrainingState, TrainingStateError
from tests.planner.command_line import Call

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 512
DROPPED = TrainingState(outputs="dropped")


class Net(nn.Module):
    """The peak is in the backward of the first layers, after the loss; ``labels`` make it return its loss beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(16, 2048), nn.GELU(), nn.Linear(2048, 16))
        self.head = nn.Linear(16, 512)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.head(self.layers(x))
        return logits if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def _loss(logits: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, LABELS)


def _planned(training: TrainingState, *, own: bool) -> tuple[nn.Module, Schedule]:
    net = Net()
    args, loss = ((X, LABELS), None) if own else ((X,), _loss)
    schedule = remat_planner.plan(net, args, budget="100%", loss=loss, training=training, solver="none")
    assert isinstance(schedule, Schedule)
    return remat_planner.apply_schedule(net, schedule), schedule


def _peak(model: nn.Module, step: Any) -> int:
    resident = [X, LABELS, *model.parameters()]
    with StorageMeter(resident) as meter:
        step(model)
    model.zero_grad()
    return meter.peak + sum(tensor.nbytes for tensor in resident)


def _dropping(model: nn.Module) -> None:
    _loss(model(X)).backward()


def _holding(model: nn.Module) -> None:
    logits = model(X)
    _loss(logits).backward()


def _own_dropping(model: nn.Module) -> None:
    model(X, LABELS)["loss"].backward()


def _own_holding(model: nn.Module) -> None:
    output = model(X, LABELS)
    output["loss"].backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "drops", "holds"), [(False, _dropping, _holding), (True, _own_dropping, _own_holding)], ids=["outside", "own"]
)
def test_the_peak_is_that_of_such_a_loop_and_another_is_told(own: bool, drops: Any, holds: Any, caplog: Any) -> None:
    planned, schedule = _planned(DROPPED, own=own)
    _, held = _planned(TrainingState(), own=own)
    logits = 64 * 512 * 4
    assert schedule.baseline_peak_bytes < held.baseline_peak_bytes - logits / 2
    measured = _peak(planned, drops)
    labels_are_no_input = 0 if own else LABELS.nbytes
    assert abs(measured - labels_are_no_input - schedule.peak_bytes) < 0.01 * schedule.peak_bytes
    assert "drops its outputs" not in caplog.text
    assert _peak(planned, holds) > schedule.budget + labels_are_no_input
    holds(planned)
    (line,) = (record.message for record in caplog.records if "drops its outputs" in record.message)
    assert ("['logits']" in line) == own
    assert f"{held.peak_bytes:,} bytes" in line


def test_without_a_loss_the_backward_holds_them() -> None:
    with pytest.raises(TrainingStateError, match=r"needs the loss.*loss="):
        remat_planner.plan(Net(), (X,), budget="100%", training=DROPPED, verify=False)
    with pytest.raises(TrainingStateError, match="held or dropped"):
        TrainingState(outputs="lost")


def test_outputs_that_the_plan_retains_itself_are_no_alarm(caplog: Any) -> None:
    net = nn.Sequential(nn.Linear(16, 512), nn.Sigmoid())  # whose backward reads its result
    schedule = remat_planner.plan(net, (X,), budget="100%", loss=_loss, training=DROPPED, solver="none")
    planned = remat_planner.apply_schedule(net, schedule)
    _dropping(planned)
    assert "drops its outputs" not in caplog.text


@pytest.mark.slow
def test_the_command_takes_it_and_says_it(folder: Path, call: Call) -> None:
    done = call("--budget", "100%", "--outputs", "dropped", "net.py")
    assert done.code == 0, done.err
    assert "dropped by the training loop before its backward" in " ".join(done.out.split())
    assert Schedule.load(folder / "net.schedule.json").origin.training == DROPPED
