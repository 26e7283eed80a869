"""Stopping and going on: model, optimizer and random state through ``torch.save``, the schedule in its own file.

python examples/training/resume.py
"""

import tempfile
from pathlib import Path

import torch
from _checked import Checked, check
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner

STEPS = 6


def build() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64)) for _ in range(4)]
    return nn.Sequential(*blocks, nn.Linear(64, 10))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(512, 64), torch.randint(10, (512,))) for _ in range(STEPS)]


def loss_on(labels: torch.Tensor):
    return lambda output: cross_entropy(output, labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for inputs, labels in data:
        loss_on(labels)(model(inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()


def first_half(model: nn.Module, folder: Path) -> None:
    inputs, labels = batches()[0]
    schedule = remat_planner.plan(model, (inputs,), loss=loss_on(labels), budget="75%", time_limit=5)
    schedule.save(folder / "schedule.json")
    planned = remat_planner.apply_schedule(model, schedule)
    optimizer = torch.optim.AdamW(planned.parameters(), lr=1e-3)
    data = batches()[: STEPS // 2]
    torch.manual_seed(2)
    train(planned, optimizer, data)
    state = {"model": planned.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    torch.save(state, folder / "checkpoint.pt")


def second_half(model: nn.Module, folder: Path) -> tuple[nn.Module, remat_planner.Schedule]:
    """As a new process would: nothing is left of the first but its two files."""
    schedule = remat_planner.Schedule.load(folder / "schedule.json")
    data = batches()[STEPS // 2 :]
    planned = remat_planner.apply_schedule(model, schedule, loss=loss_on(data[0][1]))
    optimizer = torch.optim.AdamW(planned.parameters(), lr=1e-3)
    state = torch.load(folder / "checkpoint.pt")
    planned.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    train(planned, optimizer, data)
    return planned, schedule


def main() -> Checked:
    eager, data = build(), batches()
    torch.manual_seed(2)
    train(eager, torch.optim.AdamW(eager.parameters(), lr=1e-3), data)
    with tempfile.TemporaryDirectory() as name:
        first_half(build(), Path(name))
        planned, schedule = second_half(build(), Path(name))
    inputs, labels = data[0]
    return check(eager, planned, schedule, lambda: loss_on(labels)(planned(inputs)).backward())


if __name__ == "__main__":
    main()
