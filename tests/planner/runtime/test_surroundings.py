"""Settings, modes and hooks that are in force when a planned module runs and were not when it was planned, or the other way."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from remat_planner.planner.apply import planned_call
from remat_planner.tracer import capture
from remat_planner.tracer.errors import SurroundingsError
from tests.planner.runtime.planned_net import equal, gradients, planned

Context = Callable[[], AbstractContextManager[Any]]


class Net(nn.Module):
    """Attention, a tensor of the default dtype, and an ``index_add``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = torch.tanh(self.a(x)).view(2, 4, 2, 8).transpose(1, 2)
        h = F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).reshape(8, 16)
        h = h.index_add(0, torch.arange(8) % 4, h) + (torch.arange(16) / 3 + torch.linspace(0, 1, 16)).float()
        return self.b(h).square().mean()


@contextmanager
def set_inside(set_it: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


class Observing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


SETTINGS: dict[str, Context] = {
    "attention by formula": lambda: sdpa_kernel(SDPBackend.MATH),
    "order of attention kernels": lambda: sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True),
    "default dtype": lambda: set_inside(torch.set_default_dtype, torch.float64, torch.float32),
    "deterministic algorithms": lambda: set_inside(torch.use_deterministic_algorithms, True, False),
    "default device": lambda: torch.device("cpu"),
    "cudnn": lambda: torch.backends.cudnn.flags(enabled=False),
}
HARMLESS: dict[str, Context] = {
    "save_on_cpu": save_on_cpu,
    "dispatch mode": Observing,
    "level without dual tensors": forward_ad.dual_level,
    "hooks disabled": lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
}
CONTEXTS = {**SETTINGS, **HARMLESS}


def both(planned_in: str | None = None) -> tuple[Net, Any, torch.Tensor]:
    """The net, a planned copy, and an input; ``planned_in`` names the context in which it was planned."""
    return copy.deepcopy(_planned_once(planned_in))


@cache
def _planned_once(planned_in: str | None) -> tuple[Net, Any, torch.Tensor]:
    torch.manual_seed(0)
    eager, x = Net(), torch.randn(8, 16)
    with CONTEXTS[planned_in]() if planned_in else nullcontext():
        return eager, planned(copy.deepcopy(eager), (x,)), x


def step(model: nn.Module, x: torch.Tensor, context: Context) -> list[torch.Tensor | None]:
    model.zero_grad()
    with context():
        loss = model(x)
    loss.backward()
    return [loss.detach(), *gradients(model)]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["planned", "run", "both"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_bits_are_those_of_eager_in_the_same_surroundings(name: str, when: str):
    context = CONTEXTS[name]
    eager, ours, x = both(None if when == "run" else name)
    around = nullcontext if when == "planned" else context
    for _ in range(2):
        assert equal(step(ours, x, around), step(eager, x, around))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "programs"), [("attention by formula", 2), ("cudnn", 1)])
def test_a_setting_is_planned_for_once(name: str, programs: int, caplog: pytest.LogCaptureFixture):
    eager, ours, x = both()
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        for context in (SETTINGS[name], nullcontext) * 3:
            assert equal(step(ours, x, context), step(eager, x, context))
    assert len(planned_call(ours).programs) == programs
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_a_setting_that_changes_no_operator_is_named(caplog: pytest.LogCaptureFixture):
    _, ours, x = both()
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        step(ours, x, SETTINGS["cudnn"])
    assert "cudnn (True, now False)" in caplog.text


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.tanh else result


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16()


def doubling(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


@contextmanager
def hook_on_all_modules() -> Iterator[None]:
    handle = register_module_forward_hook(doubling)
    try:
        yield
    finally:
        handle.remove()


REFUSED: dict[str, tuple[Context, str]] = {
    "function mode": (Doubling, "test_surroundings.Doubling"),
    "hooks of saved tensors": (lambda: saved_tensors_hooks(rounded, torch.Tensor.float), "rounded (.*test_surroundings.py:"),
    "hooks on all modules": (hook_on_all_modules, "doubling (.*test_surroundings.py:"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_code_around_the_call_that_a_planned_step_would_not_run_is_refused(name: str):
    context, what = REFUSED[name]
    eager, ours, x = both()
    with context(), pytest.raises(SurroundingsError, match=what.replace("(", r"\(")):
        ours(x)
    with context(), pytest.raises(SurroundingsError, match=what.replace("(", r"\(")):
        capture(eager, (x,))
    assert equal(step(ours, x, nullcontext), step(eager, x, nullcontext))


def test_a_dispatch_mode_of_the_callers_is_told_once(caplog: pytest.LogCaptureFixture):
    class Looking(Observing):
        pass

    _, ours, x = both()
    with caplog.at_level(logging.WARNING, logger="remat_planner"):
        for _ in range(2):
            step(ours, x, Looking)
    assert len(caplog.records) == 1
    assert "Looking" in caplog.text


@pytest.mark.slow
def test_dual_tensors_are_refused_wherever_they_are():
    eager, ours, x = both()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for call in (lambda: ours(dual), lambda: capture(eager, (dual,))):
            with pytest.raises(SurroundingsError, match="forward_ad"):
                call()
        weight = ours.a.weight
        del ours.a.weight
        ours.a.weight = forward_ad.make_dual(weight.detach(), torch.ones_like(weight))  # as PyTorch's tutorial does
        with pytest.raises(SurroundingsError, match="remove_schedule"):
            ours(x)


@pytest.mark.slow
def test_a_planned_module_in_a_checkpoint_of_the_callers():
    eager, ours, x = both()
    losses = []
    for model in (eager, ours):
        loss = checkpoint(model, x.clone().requires_grad_(), use_reentrant=False)
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    assert equal(gradients(eager), gradients(ours))


def test_a_checkpoint_that_would_write_a_buffer_twice_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    x = torch.randn(3, 4)
    ours = planned(model, (x,))
    with pytest.raises(SurroundingsError, match=r"writes to .*buffer 1\.running_mean"):
        checkpoint(ours, x, use_reentrant=False)
    assert not model[1].num_batches_tracked


def test_a_cache_of_parametrized_weights_around_the_call_is_refused():
    model = parametrizations.weight_norm(nn.Linear(4, 4))
    x = torch.randn(3, 4)
    ours = planned(model, (x,))
    with parametrize.cached(), pytest.raises(SurroundingsError, match=r"parametrize\.cached"):
        ours(x)
    ours(x).sum().backward()
