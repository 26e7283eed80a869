"""DistributedDataParallel around a planned model: plan the module, apply, wrap.

python -m torch.distributed.run --standalone --nproc-per-node 2 examples/training/ddp.py
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import remat_planner
from remat_planner.planner.measurement import measure_peak

STEPS = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 128), nn.Tanh()) for _ in range(4))
        )

    def forward(self, x):
        return self.layers(x).square().mean()


def build():
    torch.manual_seed(0)
    return Net()


def planned_by_the_first_rank(model, inputs):
    """One plan for all ranks, through a file that each of them can read."""
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    path = Path(folder[0]) / "ddp.schedule.json"
    if dist.get_rank() == 0:
        training = remat_planner.TrainingState(gradient_buckets="copied")
        remat_planner.plan(model, (inputs,), budget="65%", training=training, time_limit=5).save(path)
    dist.barrier()
    return remat_planner.Schedule.load(path)


def train(model, inputs):
    """The last loss and the parameters after ordinary training; every second step accumulates over two halves."""
    torch.manual_seed(1 + dist.get_rank())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        if step % 2:
            with model.no_sync():
                model(inputs).backward()
        value = model(inputs)
        value.backward()
        optimizer.step()
    return [value.detach(), *(p.detach().clone() for p in model.parameters())]


def peak(model, inputs):
    """Measured bytes of a step above parameters, buckets and inputs."""
    model.zero_grad()
    return measure_peak(lambda: model(inputs).backward())


def main():
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    inputs = torch.randn(1024, 128, generator=torch.Generator().manual_seed(dist.get_rank()))

    eager = DistributedDataParallel(build())
    expected = train(eager, inputs)

    model = build()
    schedule = planned_by_the_first_rank(model, inputs)
    planned = DistributedDataParallel(remat_planner.apply_schedule(model, schedule))
    found = train(planned, inputs)

    same = all(map(torch.equal, expected, found))
    predicted = schedule.peak_bytes - schedule.graph.constant_bytes
    measured, before = peak(planned, inputs), peak(eager, inputs)
    print(
        f"rank {dist.get_rank()}: {STEPS} AdamW steps {'equal eager bit for bit' if same else 'DIFFER from eager'}; peak "
        f"{measured / 1e6:.2f} MB, planned {predicted / 1e6:.2f} MB, eager {before / 1e6:.2f} MB",
        flush=True,
    )
    dist.destroy_process_group()
    if not same or measured > predicted * 1.03:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
