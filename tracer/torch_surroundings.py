"""The private names of PyTorch that tell what surrounds a call: settings, modes and hooks that are in force.

Together with ``torch_private`` these are all private names that the tracer uses. ``tests/tracer/test_torch_surroundings.py``
tries each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode

__all__ = [
    "SWITCHES",
    "dispatch_modes",
    "function_modes",
    "global_module_hooks",
    "has_cached_parametrizations",
    "in_checkpoint_of_caller",
    "is_dual",
    "is_profiled",
    "is_surrounded",
    "saved_tensor_hooks",
    "without_bystanders",
]


def _default_device() -> torch.device:
    """Where functions make tensors that name no device. A mode is active unless it is the CPU; asking takes microseconds."""
    return torch.get_default_device() if torch._C._len_torch_function_stack() else _CPU


_CPU = torch.device("cpu")
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn", "overrideable", "fa3")
_SDP = {f"{name} attention": getattr(torch._C, f"_get_{name}_sdp_enabled", None) for name in _ATTENTION}

SWITCHES: Mapping[str, Callable[[], Any]] = {
    "default dtype": torch.get_default_dtype,
    "default device": _default_device,
    "deterministic algorithms": torch._C._get_deterministic_algorithms,
    "cudnn": torch._C._get_cudnn_enabled,
    "mkldnn": torch._C._get_mkldnn_enabled,
    "order of attention kernels": torch._C._get_sdp_priority_order,
    **{name: read for name, read in _SDP.items() if read is not None},
}
"""The settings that decide which operators a forward runs, and with which arguments. Those that only kernels ask for are not
here: a planned step runs the same kernels under them as eager does."""


def is_surrounded() -> bool:
    """Whether there are modes, hooks of saved tensors, levels of dual tensors, or hooks on all modules."""
    return (
        torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        or forward_ad._current_level >= 0
        or bool(nn_module._has_any_global_hook())  # type: ignore[no-untyped-call]
        or parametrize._cache_enabled > 0
    )


def is_profiled() -> bool:
    """Whether PyTorch's profiler records."""
    return torch._C._autograd._profiler_enabled()


def is_dual(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` carries a tangent of forward-mode differentiation."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def function_modes() -> list[Any]:
    """The function modes that the caller is in."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def dispatch_modes() -> list[Any]:
    """The dispatch modes that the caller is in."""
    return list(_get_current_dispatch_mode_stack())


def saved_tensor_hooks() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """The hooks that are in force for what autograd saves; None where there are none."""
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks


def in_checkpoint_of_caller() -> bool:
    """Whether the caller is inside of ``torch.utils.checkpoint``, which keeps what autograd saves by running it again."""
    hooks = saved_tensor_hooks()
    return hooks is not None and hooks[0].__module__ == torch.utils.checkpoint.__name__


def has_cached_parametrizations(model: nn.Module) -> bool:
    """Whether the caller is inside of ``torch.nn.utils.parametrize.cached``, and ``model`` has what that caches."""
    return parametrize._cache_enabled > 0 and any(isinstance(m, parametrize.ParametrizationList) for m in model.modules())


def global_module_hooks() -> list[Callable[..., Any]]:
    """The hooks on all modules."""
    registries = (
        nn_module._global_forward_pre_hooks,
        nn_module._global_forward_hooks,
        nn_module._global_backward_pre_hooks,
        nn_module._global_backward_hooks,
    )
    return [hook for registry in registries for hook in registry.values()]


@contextmanager
def without_bystanders() -> Iterator[None]:
    """Take the caller's dispatch modes and hooks of saved tensors off inside; fake modes stay."""
    modes = _get_current_dispatch_mode_stack()
    others = [mode for mode in modes if getattr(mode, "_mode_key", None) is None]
    hooks = []
    for _ in others:  # the top ones: PyTorch keeps its own modes below
        _pop_mode()
    while (pair := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        hooks.append(pair)
    try:
        yield
    finally:
        for pack, unpack in reversed(hooks):
            torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)
        for mode in others:
            _push_mode(mode)
