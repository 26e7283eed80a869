"""Accelerate: ``accelerator.prepare`` takes the planned model. Mixed precision, accumulation, clipping, saving and loading.

python examples/training/with_accelerate.py
"""

import copy
import tempfile

import torch
from _checked import Checked, check
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner

STEPS = 8


def build() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64)) for _ in range(4)]
    return nn.Sequential(*blocks, nn.Linear(64, 10))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(512, 64), torch.randint(10, (512,))) for _ in range(STEPS)]


def train(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))

    def steps(data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for inputs, labels in data:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(inputs), labels))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    data = batches()
    steps(data[: STEPS // 2])
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        steps(data[:2])  # astray, and back
        accelerator.load_state(folder)
    steps(data[STEPS // 2 :])
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def main() -> Checked:
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model = build()
    eager = copy.deepcopy(model)
    inputs, labels = batches()[0]

    def loss(output: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output, labels)

    with accelerator.autocast():  # the precision in which ``prepare`` will make it run
        schedule = remat_planner.plan(model, (inputs,), loss=loss, budget="80%", time_limit=5)
    planned = remat_planner.apply_schedule(model, schedule)

    eager, planned = train(accelerator, eager), train(accelerator, planned)

    def step() -> None:
        with accelerator.autocast():
            output = planned(inputs)
        loss(output).backward()

    return check(eager, planned, schedule, step)


if __name__ == "__main__":
    main()
