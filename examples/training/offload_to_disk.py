"""Copies of activations to a disk: a step that recomputes less, because some of what it needs returns from a file.

On a GPU the same plan copies to the memory of the host: ``Offload(host="64GB")``.

python examples/training/offload_to_disk.py
"""

import copy
import tempfile

import torch
from _checked import Checked, check
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner


def build() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU(), nn.Dropout(0.1)) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def batches(number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(16, 3, 32, 32), torch.randint(10, (16,))) for _ in range(number)]


def train(model: nn.Module) -> None:
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(model.parameters())
    for inputs, labels in batches(4):
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> Checked:
    model = build()
    eager = copy.deepcopy(model)
    inputs, labels = batches(1)[0]

    with tempfile.TemporaryDirectory() as folder:
        schedule = remat_planner.plan(
            model,
            (inputs,),
            loss=lambda output: cross_entropy(output, labels),
            budget="50%",
            time_limit=5,
            # The disk's rate is measured if it is not given. Files as small as these stay in the system's cache.
            offload=remat_planner.Offload(disk="50MB", folder=folder, disk_link="2GB/s"),
        )
        planned = remat_planner.apply_schedule(model, schedule)
        train(eager)
        train(planned)
        return check(eager, planned, schedule, lambda: cross_entropy(planned(inputs), labels).backward())


if __name__ == "__main__":
    main()
