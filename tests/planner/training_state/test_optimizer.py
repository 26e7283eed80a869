"""The counted state is the state that a real step leaves behind, the counted transient what a real step takes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.errors import InfeasibleBudgetError, OptimizerError
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.reports.peak_memory import UPDATE, memory_at_peak
from remat_planner.planner.training_state.optimizer import optimizer_needs


def _model() -> nn.Module:
    model = nn.Sequential(nn.Linear(10, 20), nn.LayerNorm(20), nn.Linear(20, 3))
    model[1].requires_grad_(False)
    return model


def _state_after_a_step(optimizer: torch.optim.Optimizer, model: nn.Module) -> int:
    model(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    return sum(
        t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)
    )


@pytest.mark.parametrize(
    "name", ["AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop", "Adadelta", "ASGD", "Adafactor"]
)
def test_by_name(name: str) -> None:
    model = _model()
    counted = optimizer_needs(name.lower(), model.parameters()).state
    assert counted == _state_after_a_step(getattr(torch.optim, name)(p for p in model.parameters() if p.requires_grad), model)


def test_an_instance_counts_with_its_groups_and_settings() -> None:
    model = _model()
    groups = [{"params": model[0].parameters(), "momentum": 0.9}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    counted = optimizer_needs(optimizer, model.parameters()).state
    assert counted == (10 * 20 + 20) * 4
    assert not optimizer.state
    assert counted == _state_after_a_step(optimizer, model)
    amsgrad = torch.optim.AdamW(model.parameters(), amsgrad=True)
    assert optimizer_needs(amsgrad, []).state == _state_after_a_step(amsgrad, model)


def test_large_parameters_take_no_memory() -> None:
    with torch.device("meta"):
        model = nn.Linear(200_000, 200_000, bias=False)
    assert optimizer_needs("adamw", model.parameters()).state == 2 * 200_000 * 200_000 * 4 + 4


def test_an_unknown_optimizer_and_one_that_needs_a_closure_are_refused() -> None:
    with pytest.raises(OptimizerError, match=r"adamw.*sgd"):
        optimizer_needs("adamw9", _model().parameters())
    with pytest.raises(OptimizerError, match="LBFGS"):
        optimizer_needs("lbfgs", _model().parameters())


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 384), nn.LayerNorm(384), nn.Linear(384, 320))


_SETTINGS = (
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "foreach": True}),
    ("adamw", {}),
    ("adamw", {"foreach": True}),
    ("adamw", {"fused": True}),
    ("adafactor", {}),
    ("adafactor", {"foreach": True}),
    ("rmsprop", {"foreach": True}),
)


@pytest.mark.parametrize(("name", "settings"), _SETTINGS)
def test_the_transient_is_what_a_real_step_takes(name: str, settings: dict[str, object]) -> None:
    model = _layers()
    classes = {key.lower(): value for key, value in vars(torch.optim).items()}
    optimizer = classes[name](model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    spelled = ",".join(f"{key}={value}" for key, value in settings.items())
    needs = optimizer_needs(f"{name}:{spelled}" if spelled else name, model.parameters())
    assert needs == optimizer_needs(optimizer, ())
    first = measure_peak(optimizer.step)
    later = measure_peak(optimizer.step)
    measured = max(first - needs.state, later)
    assert measured == pytest.approx(needs.transient, abs=0.01 * 4 * 256 * 384)


def test_a_gpu_takes_foreach_unless_told_otherwise() -> None:
    parameters = [p for _ in range(4) for p in _layers().parameters()]
    size = sum(p.numel() * p.element_size() for p in parameters)
    assert optimizer_needs("adamw", parameters).transient < size
    on_gpu = optimizer_needs("adamw", parameters, device="cuda")
    assert on_gpu.transient == optimizer_needs("adamw:foreach=True", parameters).transient >= size
    assert on_gpu.state == 2 * size  # the step counts stay on the host
    assert optimizer_needs("adamw:fused=True", parameters, device="cuda").transient < 1000


def test_bad_settings_are_refused() -> None:
    for asked in ("sgd:momentum", "sgd:momentum=", "sgd:momentum=x", "sgd:speed=1", "sgd:momentum=-1"):
        with pytest.raises(OptimizerError, match=r"sgd:momentum=0\.9"):
            optimizer_needs(asked, _layers().parameters())


def test_eight_bit_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(OptimizerError, match="pip install bitsandbytes"):
        optimizer_needs("adamw8bit", _layers().parameters())


@pytest.mark.slow
def test_the_whole_step_peaks_where_it_is_highest() -> None:
    model = _layers()
    inputs = torch.randn(2, 256)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return output.sum()

    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    schedule = remat_planner.plan(model, (inputs,), loss=loss, budget="100%", optimizer=optimizer, costs="h100")
    graph = schedule.graph
    assert schedule.peak_bytes == graph.update_peak > schedule.simulation.bytes.max()
    assert sum(memory_at_peak(schedule).values()) == schedule.peak_bytes
    assert memory_at_peak(schedule)[UPDATE] == graph.update

    held = []

    def training_step() -> object:
        output = model(inputs)
        held.append((output, value := loss(output)))
        value.backward()
        optimizer.step()
        return output, value

    training_step()  # makes the state
    model.zero_grad()
    held.clear()
    measured = graph.constant_bytes + measure_peak(training_step)
    assert measured == pytest.approx(schedule.peak_bytes, rel=0.005)

    with pytest.raises(InfeasibleBudgetError, match="optimizer's step alone") as refused:
        remat_planner.plan(model, (inputs,), loss=loss, budget=schedule.peak_bytes - 1, optimizer=optimizer, costs="h100")
    assert refused.value.minimum == schedule.peak_bytes
    assert refused.value.proven
