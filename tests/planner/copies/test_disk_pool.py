"""Steps that copy activations to a disk and back: eager's bits, the simulator's bytes, and what happens when a copy fails."""

from __future__ import annotations

import copy
import errno
import gc
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.copies import disk_pool
from remat_planner.planner.errors import CompilerError, OffloadError
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer import capture, lower
from tests.planner.codegen.zoo_steps import captured, differing, step
from tests.planner.copies.nets import Net
from tests.planner.random_schedules import random_copies, random_steps, schedule_of


@pytest.fixture(autouse=True)
def _slow_copies(monkeypatch: pytest.MonkeyPatch):
    """Each copy takes up to 2 ms more, at random: it may end long after whatever waits for it began to wait, or before."""
    draw = random.Random(0)
    for name in ("_write", "_read"):
        copies = getattr(disk_pool, name)

        def slow(*args: Any, copies: Any = copies) -> None:
            time.sleep(draw.choice((0.0, 0.0, 0.0005, 0.002)))
            copies(*args)

        monkeypatch.setattr(disk_pool, name, slow)


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _planned(tmp_path: Path, *, seed: int = 0, evict: float = 0.0) -> tuple[Net, nn.Module, Schedule]:
    """A model, the same with a schedule that copies three quarters of what it can, and the schedule."""
    torch.manual_seed(0)
    net = Net()
    joint = capture(net, (torch.randn(16, 32),), loss=_loss)
    graph = lower(joint).graph
    base = random_steps(graph, seed, evict=evict) if evict else tuple(range(len(graph.ops)))
    graph, steps = random_copies(joint, graph, base, seed, copied=0.75)
    schedule = schedule_of(joint, steps, graph=graph)
    assert simulate(graph, steps).pool_peaks["disk"] > 0
    return net, apply_schedule(net, schedule, disk_folder=tmp_path), schedule


def _gradients(model: nn.Module, *, seed: int = 1, times: int = 1) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    loss = _loss(model(torch.randn(16, 32)))
    for k in range(times):
        loss.backward(retain_graph=k + 1 < times)
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def _equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(ones) == len(others) > 0 and all(map(torch.equal, ones, others))


_MODELS = [
    "plain_sequential",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "resnet", "lstm", "bert")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_random_copies_have_eagers_bits_in_the_zoo(name: str, tmp_path: Path):
    case, joint, graph = captured(name)
    start = copy.deepcopy(case.model.state_dict())
    expected = [step(case, case.model, seed) for seed in (3, 4)]
    for seed, evict in ((0, 0.0), (1, 0.5), (2, 1.0)):
        base = random_steps(graph, seed, evict=evict) if evict else tuple(range(len(graph.ops)))
        with_pool, steps = random_copies(joint, graph, base, seed)
        case.model.load_state_dict(start)
        case.model.zero_grad()
        planned = apply_schedule(case.model, schedule_of(joint, steps, graph=with_pool), disk_folder=tmp_path)
        for number, of_step in enumerate((3, 4)):  # the second step accumulates
            assert differing(expected[number], step(case, planned, of_step)) == [], (seed, number)
    case.model.load_state_dict(start)
    case.model.zero_grad()


@pytest.mark.slow
def test_the_folder_shows_no_file_and_one_serves_all_steps(tmp_path: Path):
    net, planned, _ = _planned(tmp_path)
    pool: Any = planned._planned.programs[0].pools["disk"]
    created = []
    pool._new_file = lambda: created.append(1)
    expected = _gradients(net)
    for _ in range(10):
        assert _equal(_gradients(planned), expected)
        assert not list(tmp_path.iterdir())
    assert not created


@pytest.mark.slow(on_request=True)
def test_hundreds_of_steps_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    _, planned, _ = _planned(tmp_path)
    for _ in range(20):
        _gradients(planned)

    def left() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before = left()
    for _ in range(300):
        _gradients(planned)
    files, tensors = left()  # fewer where what an earlier test left behind was released meanwhile
    assert files <= before[0]
    assert tensors <= before[1]


@pytest.mark.slow
def test_two_forwards_before_their_backwards(tmp_path: Path):
    net, planned, _ = _planned(tmp_path)

    def step_of(model: nn.Module) -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        first, second = (_loss(model(torch.randn(16, 32))) for _ in range(2))
        first.backward()
        second.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    assert _equal(step_of(planned), step_of(net))


@pytest.mark.slow
@pytest.mark.parametrize("evict", [0.0, 0.8])
def test_a_second_backward_through_the_same_forward(evict: float, tmp_path: Path):
    net, planned, _ = _planned(tmp_path, seed=3, evict=evict)
    assert _equal(_gradients(planned, times=3), _gradients(net, times=3))
    assert _equal(_gradients(planned), _gradients(net))


@pytest.mark.slow
def test_copies_deepcopies_evaluation_and_forwards_without_a_backward(tmp_path: Path):
    net, planned, _ = _planned(tmp_path)
    expected = _gradients(net)
    with torch.no_grad():
        planned(torch.randn(16, 32))
    planned(torch.randn(16, 32))  # and no backward
    assert _equal(_gradients(planned), expected)
    assert _equal(_gradients(copy.deepcopy(planned)), expected)
    assert _equal(_gradients(planned), expected)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["pwrite", "preadv"])
def test_a_copy_that_fails_is_an_error_and_the_next_step_is_right(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    net, planned, _ = _planned(tmp_path)
    expected = _gradients(net)

    def fails(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, function, fails)
        with pytest.raises(OffloadError, match="Input/output error") as caught:
            _gradients(planned)
    assert caught.value.pool == "disk"
    assert caught.value.needed > 0
    del caught
    assert _equal(_gradients(planned), expected)


@pytest.mark.slow
def test_a_step_that_ends_in_the_middle_gives_its_file_back(tmp_path: Path):
    net, planned, _ = _planned(tmp_path)
    expected = _gradients(net)
    handle = net.layers[2][0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _gradients(planned)
    handle.remove()
    assert _equal(_gradients(planned), expected)


@pytest.mark.slow
def test_a_full_disk_is_found_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OffloadError, match=r"No space left on device\); [\d,]+ bytes are free there") as caught:
        _planned(tmp_path)
    assert caught.value.available is not None


@pytest.mark.slow
def test_a_file_that_the_system_allows_no_room_is_found_before_the_step(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OffloadError, match="File too large"):
            _planned(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    net, planned, _ = _planned(tmp_path)
    assert _equal(_gradients(planned), _gradients(net))


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(OffloadError, match=r"nowhere.*No such file or directory"):
        _planned(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_folder_that_vanishes_matters_only_for_a_new_file(tmp_path: Path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    net, planned, _ = _planned(folder)
    folder.rmdir()
    assert _equal(_gradients(planned), _gradients(net))
    first = planned(torch.randn(16, 32))
    with pytest.raises(OffloadError, match="scratch"):
        planned(torch.randn(16, 32))
    del first


@pytest.mark.slow
def test_a_schedule_with_copies_needs_a_folder_and_pytorchs_kernels(tmp_path: Path):
    net, _, schedule = _planned(tmp_path)
    with pytest.raises(OffloadError, match="disk_folder="):
        apply_schedule(net, schedule)
    with pytest.raises(CompilerError, match="offload"):
        apply_schedule(net, schedule, compiler="inductor", disk_folder=tmp_path)


@pytest.mark.slow
def test_host_copies_are_refused_on_a_cpu():
    net = Net()
    joint = capture(net, (torch.randn(16, 32),), loss=_loss)
    graph = lower(joint).graph
    graph, steps = random_copies(joint, graph, tuple(range(len(graph.ops))), 0, pool="host")
    with pytest.raises(OffloadError, match="plan with offload to a disk"):
        apply_schedule(net, schedule_of(joint, steps, graph=graph))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32), nn.Tanh())
        self.one, self.other = (nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.trunk(x)
        return self.one(h), self.other(h)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_backward_from_one_of_two_outputs(seed: int, tmp_path: Path):
    torch.manual_seed(0)
    net, x = Heads(), torch.randn(16, 32)
    joint = capture(net, (x,), loss=lambda outputs: sum(map(_loss, outputs)))
    graph = lower(joint).graph
    graph, steps = random_copies(joint, graph, random_steps(graph, seed, evict=0.5), seed, copied=0.9)
    planned = apply_schedule(net, schedule_of(joint, steps, graph=graph), disk_folder=tmp_path)

    def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
        model.zero_grad()
        _loss(model(x)[0]).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients(net), gradients(planned)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
