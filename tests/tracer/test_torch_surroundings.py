"""Each name of ``tracer.torch_surroundings``, apart: the test that fails says what a release of PyTorch has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from remat_planner.tracer import torch_surroundings as private
from remat_planner.tracer.torch_private import new_fake_mode


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@contextmanager
def set_inside(set_it: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("default dtype", lambda: set_inside(torch.set_default_dtype, torch.float64, torch.float32)),
        ("default device", lambda: torch.device("meta")),
        ("deterministic algorithms", lambda: set_inside(torch.use_deterministic_algorithms, True, False)),
        ("cudnn", lambda: torch.backends.cudnn.flags(enabled=False)),
        ("mkldnn", lambda: torch.backends.mkldnn.flags(enabled=False)),
        ("math attention", lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
        ("flash attention", lambda: sdpa_kernel(SDPBackend.MATH)),
        ("mem_efficient attention", lambda: sdpa_kernel(SDPBackend.MATH)),
        ("cudnn attention", lambda: sdpa_kernel(SDPBackend.MATH)),
        (
            "order of attention kernels",
            lambda: sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True),
        ),
    ],
)
def test_a_switch_is_read(name: str, context: Callable[[], AbstractContextManager[Any]]):
    before = private.SWITCHES[name]()
    with context():
        assert private.SWITCHES[name]() != before
    assert private.SWITCHES[name]() == before


def test_modes_and_hooks_of_the_caller_are_found():
    assert not private.is_surrounded()
    assert private.function_modes() == []
    assert private.saved_tensor_hooks() is None
    with FunctionMode() as mode:
        assert private.is_surrounded()
        assert private.function_modes() == [mode]
    with DispatchMode() as mode:
        assert private.is_surrounded()
        assert private.dispatch_modes() == [mode]
    pack, unpack = (lambda x: x), (lambda x: x)
    with saved_tensors_hooks(pack, unpack):
        assert private.is_surrounded()
        assert private.saved_tensor_hooks() == (pack, unpack)
    assert not private.is_surrounded()


def test_hooks_on_all_modules_are_found():
    def hook(*_: Any) -> None:
        return None

    handle = register_module_forward_hook(hook)
    try:
        assert private.is_surrounded()
        assert private.global_module_hooks() == [hook]
    finally:
        handle.remove()
    assert private.global_module_hooks() == []
    assert not private.is_surrounded()


def test_dual_tensors_are_told_from_others():
    x = torch.ones(2)
    assert not private.is_dual(x)
    with forward_ad.dual_level():
        assert private.is_surrounded()
        assert not private.is_dual(x)
        assert private.is_dual(forward_ad.make_dual(x, torch.ones(2)))


def test_bystanders_are_taken_off_and_fake_modes_stay():
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with DispatchMode() as mode, saved_tensors_hooks(pack, lambda tensor: tensor):
        with private.without_bystanders():
            layer(x).tanh()
        assert (mode.operators, saved) == ([], [])
        layer(x).tanh()
        assert "aten::tanh" in mode.operators
        assert saved
    fake_mode = new_fake_mode()
    with fake_mode, DispatchMode() as mode, private.without_bystanders():
        assert torch.ones(2).fake_mode is fake_mode  # type: ignore[attr-defined]
        assert mode.operators == []


def test_every_name_is_tried():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in private.__all__ if f"private.{name}" not in source] == []


def test_a_profiler_is_seen():
    assert not private.is_profiled()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert private.is_profiled()
    assert not private.is_profiled()


def test_checkpoint_around_a_call_is_seen():
    seen = []
    checkpoint(lambda x: (seen.append(private.in_checkpoint_of_caller()), x * 2)[1], torch.ones(2), use_reentrant=False)
    assert seen == [True]
    assert not private.in_checkpoint_of_caller()


def test_a_cache_of_parametrizations_is_seen():
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    with parametrize.cached():
        assert private.has_cached_parametrizations(layer)
        assert not private.has_cached_parametrizations(nn.Linear(2, 2))
        assert private.is_surrounded()
    assert not private.has_cached_parametrizations(layer)
