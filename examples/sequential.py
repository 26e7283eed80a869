"""Plan, apply, train: a plain ``nn.Sequential``, its loss and its peak beside those of eager training.

python examples/sequential.py
plan --budget 50% examples/sequential.py
"""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner
from remat_planner.planner.measurement import measure_peak


def build():
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Dropout(0.1), nn.Linear(1024, 256), nn.Tanh()) for _ in range(8)
    ]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    inputs, labels = torch.randn(2048, 256), torch.randint(10, (2048,))

    def loss(output):
        return cross_entropy(output, labels)

    return model, inputs, loss


def train(model, inputs, loss, steps=3):
    """Losses of ordinary training steps; nothing in here knows about checkpointing."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        value = loss(model(inputs))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


def megabytes(model, inputs, loss):
    """Measured peak of a training step above parameters and inputs, in MB."""
    peak = measure_peak(lambda: loss(model(inputs)).backward()) / 1e6
    model.zero_grad()
    return peak


def main():
    model, inputs, loss = build()
    eager = copy.deepcopy(model)

    schedule = remat_planner.plan(model, (inputs,), loss=loss, budget="50%")
    planned = remat_planner.apply_schedule(model, schedule)
    predicted = (schedule.peak_bytes - schedule.graph.constant_bytes) / 1e6

    eager_losses, planned_losses = train(eager, inputs, loss), train(planned, inputs, loss)
    print(f"eager    peak {megabytes(eager, inputs, loss):6.1f} MB                      losses {eager_losses}")
    print(f"planned  peak {megabytes(planned, inputs, loss):6.1f} MB, predicted {predicted:6.1f} MB  losses {planned_losses}")
    if eager_losses != planned_losses:
        raise SystemExit("the losses differ: this must not happen")


if __name__ == "__main__":
    main()
