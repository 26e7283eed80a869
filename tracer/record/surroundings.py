"""What surrounds a call and decides what eager computes in it.

Settings (``switches``) decide which operators a forward runs: a capture holds for those in which it was made. Code that changes
what functions of torch do, what autograd saves or what modules return would not run in a captured step, so it is refused. A
dispatch mode sees the operators of a planned step as those of eager; it is told that they are not quite the same ones.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state import is_users_module
from remat_planner.tracer.refusals import (
    cached_parametrizations_error,
    dual_tensor_error,
    function_mode_error,
    global_hook_error,
    saved_tensor_hook_error,
    second_forward_error,
)
from remat_planner.tracer.torch_surroundings import (
    SWITCHES,
    dispatch_modes,
    function_modes,
    global_module_hooks,
    has_cached_parametrizations,
    in_checkpoint_of_caller,
    is_dual,
    is_profiled,
    is_surrounded,
    saved_tensor_hooks,
)

_log = logging.getLogger("remat_planner")

Switches = tuple[Any, ...]
"""The settings of ``SWITCHES``, in their order."""

_READ = tuple(SWITCHES.values())


def switches() -> Switches:
    """The settings that are in force."""
    return tuple([read() for read in _READ])


def changed_switches(one: Switches, other: Switches) -> list[str]:
    """Names and values of the settings that differ."""
    return [f"{name} ({a}, now {b})" for name, a, b in zip(SWITCHES, one, other, strict=True) if a != b]


def is_observed() -> bool:
    """Whether the caller is inside of a profiler or a dispatch mode, or records a CUDA graph, so that a recording made now
    would show there, or fail.
    """
    in_graph = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]
    return is_profiled() or sys.getprofile() is not None or bool(dispatch_modes()) or in_graph


@cache
def _tell_of_dispatch_mode(mode: type) -> None:
    _log.warning(
        "the call is inside of the dispatch mode %s.%s, which sees the operators of the planned step: those that are "
        "recomputed more than once, and some that work in place in another form. To count or to log them is right; where "
        "the mode changes results, the step's may differ from eager's",
        mode.__module__,
        mode.__qualname__,
    )


def refuse_surroundings(model: nn.Module, leaves: Sequence[Any]) -> None:
    """Refuse code around a call of ``model`` with these arguments that eager would run in it and a captured step would not.

    What belongs to PyTorch is let through: it leaves values as they are.

    Raises:
        SurroundingsError: there is a function mode, hooks of saved tensors, a hook on all modules, a dual tensor, or a cache
            of parametrized weights.
    """
    if not is_surrounded():
        return
    for mode in dispatch_modes():
        if is_users_module(type(mode).__module__):
            _tell_of_dispatch_mode(type(mode))  # type: ignore[arg-type]
    for mode in function_modes():
        if is_users_module(type(mode).__module__):
            raise function_mode_error(type(mode))
    hooks = saved_tensor_hooks()
    if hooks is not None and is_users_module(hooks[0].__module__):
        raise saved_tensor_hook_error(hooks[0])
    for hook in global_module_hooks():
        if is_users_module(getattr(hook, "__module__", None) or type(hook).__module__):
            raise global_hook_error(hook)
    if has_cached_parametrizations(model):
        raise cached_parametrizations_error()
    # Parameters are made dual by plain attributes in their places.
    attributes = (value for module in model.modules() for value in vars(module).values())
    tensors: Iterable[Any] = (*model.parameters(), *model.buffers(), *attributes, *leaves)
    if any(isinstance(tensor, torch.Tensor) and is_dual(tensor) for tensor in tensors):
        raise dual_tensor_error()


def refuse_checkpoint_around(updated: Sequence[str]) -> None:
    """Refuse ``torch.utils.checkpoint`` around a planned call whose forward writes to ``updated``.

    Raises:
        SurroundingsError: the caller is inside of it.
    """
    if updated and in_checkpoint_of_caller():
        raise second_forward_error(updated)
