"""Plain PyTorch with mixed precision: autocast, GradScaler, accumulation, clipping.

python examples/training/amp.py
"""

import copy

import torch
from _checked import Checked, check
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner


def build() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64)) for _ in range(4)]
    return nn.Sequential(*blocks, nn.LayerNorm(64), nn.Linear(64, 10))


def batches(number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(512, 64), torch.randint(10, (512,))) for _ in range(number)]


def train(model: nn.Module, accumulate: int = 2) -> None:
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # too high: the first update is skipped
    for number, (inputs, labels) in enumerate(batches(12), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss / accumulate).backward()
        if number % accumulate == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def main() -> Checked:
    model = build()
    eager = copy.deepcopy(model)
    inputs, labels = batches(1)[0]

    with torch.autocast("cpu", dtype=torch.bfloat16):  # the ambient precision is part of the plan
        schedule = remat_planner.plan(
            model, (inputs,), loss=lambda output: cross_entropy(output, labels), budget="80%", time_limit=5
        )
    planned = remat_planner.apply_schedule(model, schedule)
    train(eager)
    train(planned)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(planned(inputs), labels)
        loss.backward()

    return check(eager, planned, schedule, step)


if __name__ == "__main__":
    main()
