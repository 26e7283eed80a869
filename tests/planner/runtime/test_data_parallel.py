"""DistributedDataParallel around a planned module, in two processes."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from remat_planner import apply_schedule
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.dropout(torch.tanh(layer(x)), 0.2, self.training)
        return self.norm(x).pow(2).mean()


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.first(h), self.second(h)


def _trains_one_head_as_eager(rank: int) -> bool:
    """With a static graph, the parameters of a head without gradient keep None, and so their values under weight decay."""
    torch.manual_seed(0)
    eager = _Heads()
    model, x = copy.deepcopy(eager), torch.randn(8, 16) + rank
    ours = apply_schedule(model, schedule_of(capture(model, (x,))))
    for called, own in ((eager, eager), (ours, model)):
        wrapped = torch.nn.parallel.DistributedDataParallel(called, static_graph=True)
        optimizer = torch.optim.AdamW(own.parameters(), weight_decay=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            wrapped(x)[0].square().mean().backward()
            optimizer.step()
        del wrapped
    return model.second.weight.grad is None and all(map(torch.equal, model.parameters(), eager.parameters()))


def _train_in_parallel(rank: int, address: str, results: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    torch.manual_seed(0)
    eager = _Small()
    model = copy.deepcopy(eager)
    x = torch.randn(8, 16) + rank
    joint = capture(model, (x,))
    graph = lower(joint).graph
    ours = apply_schedule(model, schedule_of(joint, random_steps(graph, 1), graph=graph))
    same = True
    for settings in ({}, {"gradient_as_bucket_view": True}):
        wrapped = [torch.nn.parallel.DistributedDataParallel(m, **settings) for m in (eager, ours)]
        for step in range(2):
            for module in wrapped:
                torch.manual_seed(10 * step + rank)
                module.zero_grad()
                module(x).backward()
                with torch.no_grad():
                    for p in module.parameters():
                        p -= 0.1 * p.grad
        same = same and all(torch.equal(a, b) for a, b in zip(eager.parameters(), model.parameters(), strict=True))
        same = same and all(torch.equal(a, b) for a, b in zip(eager.buffers(), model.buffers(), strict=True))
        del wrapped
    results.put((rank, same and _trains_one_head_as_eager(rank)))
    torch.distributed.destroy_process_group()


@pytest.mark.slow(on_request=True)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_distributed_data_parallel_around_a_planned_module(tmp_path: Any):
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_train_in_parallel, args=(rank, str(tmp_path / "rendezvous"), results)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        found = sorted(results.get(timeout=120) for _ in workers)
    finally:
        for worker in workers:
            worker.join(20)
            if worker.is_alive():
                worker.kill()
    assert found == [(0, True), (1, True)]
