"""The host's pool with streams that are none (``streams``); a copy that does not wait for all that the compute stream was given
fails at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.copies import HostPool, host_pool, pools
from remat_planner.schedules import Schedule
from remat_planner.tracer import capture
from tests.planner.copies.nets import Net
from tests.planner.copies.streams import Stream, Streams
from tests.planner.random_schedules import random_copies, random_steps, schedule_of


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The compute stream, on a CPU that ``HostPool`` takes for a GPU."""
    streams = Streams()

    def give_copy(target: torch.Tensor, source: torch.Tensor) -> None:
        side = streams.current
        assert side is not streams.compute
        assert side.behind is not None
        assert (side.behind.stream, side.behind.position) == (streams.compute, len(streams.compute.given))
        side.give(lambda: target.copy_(source))

    monkeypatch.setattr(host_pool, "torch", streams.torch)
    monkeypatch.setattr(host_pool, "_pinned", lambda size: torch.zeros(size, dtype=torch.uint8))
    monkeypatch.setattr(host_pool, "start_copy", give_copy)
    monkeypatch.setattr(pools, "_host_pool", HostPool)
    return streams.compute


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _planned(seed: int, evict: float = 0.0) -> tuple[Net, nn.Module, Schedule]:
    torch.manual_seed(0)
    net = Net()
    joint = capture(net, (torch.randn(16, 32),), loss=_loss)
    graph = schedule_of(joint).graph
    base = random_steps(graph, seed, evict=evict) if evict else tuple(range(len(graph.ops)))
    graph, steps = random_copies(joint, graph, base, seed, copied=0.75, pool="host")
    schedule = schedule_of(joint, steps, graph=graph)
    return net, apply_schedule(net, schedule), schedule


def _gradients(model: nn.Module, *, times: int = 1) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    loss = _loss(model(torch.randn(16, 32)))
    for k in range(times):
        loss.backward(retain_graph=k + 1 < times)
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def _equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(ones) == len(others) > 0 and all(map(torch.equal, ones, others))


@pytest.mark.slow
@pytest.mark.parametrize("evict", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_bits_when_copies_are_late(seed: int, evict: float, compute: Stream) -> None:
    net, planned, schedule = _planned(seed, evict)
    assert schedule.simulation.pool_peaks["host"] > 0
    for _ in range(2):
        assert _equal(_gradients(planned), _gradients(net))
    assert _equal(_gradients(planned, times=2), _gradients(net, times=2))
    assert compute.done > 0


@pytest.mark.slow
def test_a_missing_wait_would_be_seen(compute: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    net, planned, _ = _planned(0)
    monkeypatch.setattr(compute, "wait_event", lambda _: None)
    assert not _equal(_gradients(planned), _gradients(net))


@pytest.mark.slow
def test_two_forwards_and_steps_that_end_in_the_middle(compute: Stream) -> None:
    net, planned, _ = _planned(1)

    def step_of(model: nn.Module) -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        first, second = (_loss(model(torch.randn(16, 32))) for _ in range(2))
        first.backward()
        second.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    assert _equal(step_of(planned), step_of(net))
    handle = net.layers[2][0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _gradients(planned)
    handle.remove()
    planned(torch.randn(16, 32))  # and no backward
    assert _equal(_gradients(planned), _gradients(net))
    assert _equal(_gradients(copy.deepcopy(planned)), _gradients(net))


def test_device_memory_outlives_the_copy_that_reads_it(compute: Stream) -> None:
    """After an error nothing releases a store: its block is free only once the compute stream waits for the copy."""
    pool = HostPool(torch.device("cpu"), 4096)
    step: Any = pool.for_step()
    source = torch.arange(16, dtype=torch.float32)
    expected = source.clone()
    stored = step.store(0, 4096, (source,))
    place = stored._places[0]
    assert not place.any()  # the copy is late
    del source, step, stored
    assert compute.done == len(compute.given) > 0
    assert torch.equal(place.view(torch.float32), expected)
    assert len(pool._unused) == 1


def test_the_next_step_does_not_overwrite_what_a_load_still_reads(compute: Stream) -> None:
    """Its compute stream may be another one, for which nothing of the step before has waited."""
    pool = HostPool(torch.device("cpu"), 4096)
    one: Any = pool.for_step()
    stored = one.store(0, 4096, (torch.full((16,), 1.0),))
    stored.wait()
    loading = stored.load()
    pool.give_back(one._buffer)  # while the load is still to come
    two: Any = pool.for_step()
    again = two.store(0, 4096, (torch.full((16,), 2.0),))
    again.wait()
    (loaded,) = loading.wait()
    assert torch.equal(loaded, torch.full((16,), 1.0))
