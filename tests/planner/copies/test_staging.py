"""A disk pool of a GPU, with streams that are none (``streams``), by itself and beside the host's pool."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.codegen import copyable_storages
from remat_planner.planner.copies import HostPool, disk_pool, host_pool, pools, staging
from remat_planner.planner.copies.disk_pool import DiskChannels, DiskPool
from remat_planner.planner.errors import OffloadError
from remat_planner.schedules import Channel, Pool, simulate
from remat_planner.solvers.problem.views import Views
from remat_planner.tracer import capture
from tests.planner.copies.nets import Net
from tests.planner.copies.streams import Streams
from tests.planner.random_schedules import random_steps, schedule_of

GPU: Any = SimpleNamespace(type="cuda")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """A CPU that all pools take for a GPU, copies of which take random times, in chunks of 256 bytes."""
    streams, draw = Streams(), random.Random(0)
    streams.torch.empty = lambda *sizes, device=None, **options: torch.empty(*sizes, **options)

    def give_copy(target: torch.Tensor, source: torch.Tensor) -> None:
        side = streams.current
        assert side is not streams.compute
        assert side.behind is not None
        assert side.behind.stream is streams.compute
        side.give(lambda: target.copy_(source))

    def slow(function: Any) -> Any:
        def later(*args: Any) -> None:
            time.sleep(draw.choice((0.0, 0.0, 0.001)))
            function(*args)

        return later

    for module in (host_pool, disk_pool, staging):
        monkeypatch.setattr(module, "torch", streams.torch)
    for module in (host_pool, staging):
        monkeypatch.setattr(module, "start_copy", give_copy)
    monkeypatch.setattr(host_pool, "_pinned", lambda size: torch.zeros(size, dtype=torch.uint8))
    monkeypatch.setattr(staging, "pinned", lambda size, _: torch.zeros(size, dtype=torch.uint8))
    monkeypatch.setattr(staging, "_CHUNK", 256)
    monkeypatch.setattr(disk_pool, "_write", slow(disk_pool._write))
    monkeypatch.setattr(disk_pool, "_read", slow(disk_pool._read))
    monkeypatch.setattr(pools, "_host_pool", HostPool)
    monkeypatch.setattr(pools, "_disk_pool", lambda _, folder, size: DiskPool(folder, size, DiskChannels(GPU)))
    return streams


@pytest.mark.parametrize("size", [4, 256, 260, 1024, 1028])
def test_bytes_come_back_in_chunks(size: int, streams: Streams, tmp_path: Path) -> None:
    pool = DiskPool(tmp_path, 4096, DiskChannels(GPU))
    step = pool.for_step()
    source = torch.randn(size // 4)
    stored = step.store(1024, 2048, (source,))
    stored.wait()
    loading = stored.load()
    (loaded,) = loading.wait()
    assert loaded.data_ptr() != source.data_ptr()
    assert torch.equal(loaded, source)
    assert len(streams.compute.given) == 0, "the host waits, and no stream for another"


def test_a_missing_wait_would_be_seen(streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.planner.copies.streams.Event.synchronize", lambda _: None)
    step = DiskPool(tmp_path, 4096, DiskChannels(GPU)).for_step()
    source = torch.randn(256)
    stored = step.store(0, 4096, (source,))
    stored.wait()
    (loaded,) = stored.load().wait()
    assert not torch.equal(loaded, source)


def test_a_read_that_fails_waits_for_what_was_begun(streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = DiskPool(tmp_path, 4096, DiskChannels(GPU)).for_step()
    stored = step.store(0, 4096, (torch.ones(512),))
    stored.wait()
    read, calls = staging.read_bytes, []

    def fails(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        read(*args)

    monkeypatch.setattr(staging, "read_bytes", fails)
    loading = stored.load()
    with pytest.raises(OffloadError, match="Input/output error"):
        loading.wait()
    back = step._pool.channels._back
    assert back is not None
    assert back._stream.done == len(back._stream.given), "nothing writes to memory that may be given out again"


@pytest.mark.slow
@pytest.mark.parametrize("evict", [0.0, 0.6])
def test_both_pools_at_once(evict: float, streams: Streams, tmp_path: Path) -> None:
    """What is saved goes to the host and to the disk in turn, some of it recomputed in between."""
    torch.manual_seed(0)
    net, x = Net(layers=3), torch.randn(16, 32)
    joint = capture(net, (x,), loss=lambda output: output.square().mean())
    graph = schedule_of(joint).graph
    steps = random_steps(graph, 1, evict=evict) if evict else tuple(range(len(graph.ops)))
    memory = [Pool(name, 10**9, Channel(1e9), Channel(1e9), block=64) for name in ("host", "disk")]
    graph = graph.with_transfers(memory, copyable_storages(graph, joint))
    sequence = [i for i in steps if i not in graph.free_views]
    turn = next(place for place, i in enumerate(sequence) if graph.ops[i].phase == "backward")
    issued: list[tuple[float, int]] = list(enumerate(sequence))
    for number, storage in enumerate(graph.copied):
        uses = [
            place
            for place, i in enumerate(sequence)
            if storage in {graph.values[value].storage for value in (*graph.ops[i].reads, *graph.ops[i].writes)}
        ]
        before, after = [use for use in uses if use < turn], [use for use in uses if use >= turn]
        if before and after and not any(storage in graph.allocated[sequence[use]] for use in after):
            store, release, load = graph.copy_steps(storage, ("host", "disk")[number % 2])
            issued += [(before[-1] + 0.1, store), (before[-1] + 0.2, release), (after[0] - 0.1, load)]
    steps = Views(graph).restore(i for _, i in sorted(issued))
    assert simulate(graph, steps).pool_peaks.keys() == {"host", "disk"}
    planned = apply_schedule(net, schedule_of(joint, steps, graph=graph), disk_folder=tmp_path)

    def gradients(model: nn.Module, times: int = 1) -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        loss = model(x).square().mean()
        for k in range(times):
            loss.backward(retain_graph=k + 1 < times)
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for times in (1, 1, 2):
        assert all(map(torch.equal, gradients(planned, times), gradients(net, times)))
