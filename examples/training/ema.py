"""An averaged copy beside the model that trains: ``AveragedModel`` copies the planned model as it copies any other.

python examples/training/ema.py
"""

import copy

import torch
from _checked import Checked, check
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import remat_planner


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def batches(number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(16, 3, 16, 16), torch.randint(10, (16,))) for _ in range(number)]


def train(model: nn.Module) -> nn.Module:
    """The averaged model."""
    torch.manual_seed(2)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for inputs, labels in batches(6):
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
    update_bn([inputs for inputs, _ in batches(2)], averaged)
    return averaged


def main() -> Checked:
    model = build()
    eager = copy.deepcopy(model)
    inputs, labels = batches(1)[0]

    schedule = remat_planner.plan(
        model, (inputs,), loss=lambda output: cross_entropy(output, labels), budget="85%", time_limit=5
    )
    planned = remat_planner.apply_schedule(model, schedule)
    both_eager, both = nn.ModuleList([eager, train(eager)]), nn.ModuleList([planned, train(planned)])
    return check(both_eager, both, schedule, lambda: cross_entropy(planned(inputs), labels).backward())


if __name__ == "__main__":
    main()
