"""Copies from a GPU to pinned memory and to a disk: eager's bits however slow the copies are, and the predicted peak."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.copies import host_pool, staging
from remat_planner.planner.verify import verify
from remat_planner.schedules import PoolName, Schedule, simulate
from remat_planner.tracer import capture
from remat_planner.tracer.costs import MEASURE, host_channels
from tests.planner.random_schedules import random_copies, random_steps, schedule_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

_CYCLES = (0, 10**5, 10**7)  # of a delay: none, about 50 us, about 5 ms


@contextmanager
def _slow_copies(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """Each copy begins later, and what its stream runs after it too, by delays drawn at random."""
    draw, copies = random.Random(seed), host_pool.start_copy

    def slow(target: torch.Tensor, source: torch.Tensor) -> None:
        torch.cuda._sleep(draw.choice(_CYCLES))  # type: ignore[no-untyped-call]
        copies(target, source)
        torch.cuda._sleep(draw.choice(_CYCLES))  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patched:
        patched.setattr(host_pool, "start_copy", slow)
        patched.setattr(staging, "start_copy", slow)
        yield


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.float().square().mean()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Dropout(0.1)) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _planned(*, seed: int = 0, evict: float = 0.0, pool: PoolName = "host") -> tuple[Net, torch.Tensor, Schedule]:
    """A model, its input, and a schedule that copies three quarters of what it can."""
    torch.manual_seed(0)
    net, x = Net().cuda(), torch.randn(2048, 256, device="cuda")
    joint = capture(net, (x,), loss=_loss)
    graph = schedule_of(joint).graph
    base = random_steps(graph, seed, evict=evict) if evict else tuple(range(len(graph.ops)))
    graph, steps = random_copies(joint, graph, base, seed, copied=0.75, pool=pool)
    assert simulate(graph, steps).pool_peaks[pool] > 0
    return net, x, schedule_of(joint, steps, graph=graph)


def _gradients(model: nn.Module, x: torch.Tensor, *, times: int = 1) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    loss = _loss(model(x))
    for k in range(times):
        loss.backward(retain_graph=k + 1 < times)
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def _equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(ones) == len(others) > 0 and all(map(torch.equal, ones, others))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("evict", [0.0, 0.6])
@pytest.mark.parametrize("pool", ["host", "disk"])
def test_bits_with_slow_copies(
    pool: PoolName, seed: int, evict: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, schedule = _planned(seed=seed, evict=evict, pool=pool)
    planned = apply_schedule(net, schedule, disk_folder=tmp_path)
    with _slow_copies(monkeypatch, seed):
        for _ in range(3):
            assert _equal(_gradients(planned, x), _gradients(net, x))
        assert _equal(_gradients(planned, x, times=2), _gradients(net, x, times=2))


@pytest.mark.parametrize("pool", ["host", "disk"])
def test_the_peak_is_the_predicted_one(pool: PoolName, tmp_path: Path) -> None:
    net, x, schedule = _planned(pool=pool)
    found = verify(net, schedule, (x,), loss=_loss, disk_folder=tmp_path)
    assert found.identical, found.differences
    assert found.pool_bytes == schedule.simulation.pool_peaks
    assert found.measured_peak_bytes <= 1.03 * found.predicted_peak_bytes


def test_two_forwards_before_their_backwards_on_two_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, schedule = _planned(seed=3)
    planned = apply_schedule(net, schedule)
    streams = [torch.cuda.Stream() for _ in range(2)]  # type: ignore[no-untyped-call]

    def gradients(model: nn.Module) -> list[torch.Tensor]:
        """Backwards on another stream than their forwards, which autograd runs on that of the forward."""
        model.zero_grad()
        losses = []
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.manual_seed(1)
                losses.append(_loss(model(x)))
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)
        for loss in losses:
            loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients(net)
    with _slow_copies(monkeypatch, 0):
        for _ in range(3):
            assert _equal(gradients(planned), expected)


def test_a_step_that_an_error_ends_overwrites_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, schedule = _planned(seed=1)
    planned = apply_schedule(net, schedule)
    expected = _gradients(net, x)
    with _slow_copies(monkeypatch, 1):
        for layer in range(6):
            handle = net.layers[layer][0].weight.register_hook(lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                _gradients(planned, x)
            handle.remove()
            planned(x)  # and no backward
            assert _equal(_gradients(planned, x), expected)


def test_the_link_is_measured() -> None:
    for channel in host_channels(torch.device("cuda"), MEASURE):
        assert 1e9 < channel.bytes_per_second < 1e12
        assert 0 < channel.latency < 1e-3
        assert channel.source == "measured"
