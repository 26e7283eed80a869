"""``fully_shard`` (FSDP2), planned as it is sharded: shard, plan the blocks on every rank, apply.

python -m torch.distributed.run --standalone --nproc-per-node 2 examples/training/fsdp.py
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import remat_planner

STEPS = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64), nn.Tanh()) for _ in range(4)
        )
        self.head = nn.Linear(64, 1)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x).square().mean()


def build():
    torch.manual_seed(0)
    model = Net()
    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)


def train(model, inputs):
    """The last loss and this rank's parameters after ordinary training; every second step accumulates over two halves."""
    torch.manual_seed(1 + dist.get_rank())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        if step % 2:
            model.set_requires_gradient_sync(False)
            model(inputs).backward()
            model.set_requires_gradient_sync(True)
        loss = model(inputs)
        loss.backward()
        optimizer.step()
    return [loss.detach(), *(p.detach().to_local().clone() for p in model.parameters())]


def main():
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    inputs = torch.randn(1024, 64, generator=torch.Generator().manual_seed(dist.get_rank()))

    expected = train(build(), inputs)

    model = build()
    schedule = remat_planner.plan(model, (inputs,), budget="70%", regions="layers.*", optimizer="adamw")
    verified = remat_planner.verify(model, schedule, (inputs,))
    remat_planner.apply_schedule(model, schedule)
    found = train(model, inputs)

    same = all(map(torch.equal, expected, found))
    print(
        f"rank {dist.get_rank()}: {STEPS} AdamW steps {'equal eager bit for bit' if same else 'DIFFER from eager'}; peak "
        f"{verified.measured_peak_bytes / 1e6:.2f} MB, planned {schedule.peak_bytes / 1e6:.2f} MB, without recomputation "
        f"{schedule.baseline_peak_bytes / 1e6:.2f} MB",
        flush=True,
    )
    dist.destroy_process_group()
    if not (same and verified.identical and verified.within_budget):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
