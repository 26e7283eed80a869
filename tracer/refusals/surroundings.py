"""Refusals of what surrounds a call: code that eager would run in it, and that a captured step would pass by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remat_planner.tracer.errors import SurroundingsError


def function_mode_error(mode: type) -> SurroundingsError:
    """For a ``TorchFunctionMode`` of the user's."""
    name = f"{mode.__module__}.{mode.__qualname__}"
    return SurroundingsError(
        f"the call is inside of the torch function mode {name}. It sees the functions of torch that a forward calls, and a "
        "planned step calls none of them, only the operators below. Plan and call the planned model outside of it; a "
        "TorchDispatchMode sees the operators of a planned step",
        what=name,
    )


def saved_tensor_hook_error(hook: Any) -> SurroundingsError:
    """For ``torch.autograd.graph.saved_tensors_hooks``."""
    name = _named(hook)
    return SurroundingsError(
        f"the call is inside of torch.autograd.graph.saved_tensors_hooks with {name}. A planned step keeps its activations "
        "itself, as the schedule says, and hands none to the hooks. Plan and call the planned model outside of them, or take "
        "the plan off (remat_planner.remove_schedule(model))",
        what=name,
    )


def global_hook_error(hook: Any) -> SurroundingsError:
    """For a hook on all modules, such as ``torch.nn.modules.module.register_module_forward_hook``."""
    name = _named(hook)
    return SurroundingsError(
        f"a hook is registered for all modules: {name}. A planned step does not call the modules in the model, so it would not "
        "run for them. Remove it (handle.remove()), or register it on the modules that it is for and plan again",
        what=name,
    )


def dual_tensor_error() -> SurroundingsError:
    """For forward-mode differentiation."""
    return SurroundingsError(
        "a parameter, buffer or input is a dual tensor (torch.autograd.forward_ad). A planned step computes a forward and its "
        "backward, and no tangents: call the model without its plan there, remat_planner.remove_schedule(model)",
        what="torch.autograd.forward_ad",
    )


def second_forward_error(updated: Sequence[str]) -> SurroundingsError:
    """For ``torch.utils.checkpoint`` around a planned call whose forward writes to ``updated``."""
    return SurroundingsError(
        f"the call is inside of torch.utils.checkpoint, which runs the forward once more in the backward, and the forward "
        f"writes to {', '.join(updated)}: eager would do so twice, and a planned step does it once. Call the planned model "
        "without checkpoint: its schedule says what is recomputed",
        what="torch.utils.checkpoint",
    )


def cached_parametrizations_error() -> SurroundingsError:
    """For ``torch.nn.utils.parametrize.cached`` around the call."""
    return SurroundingsError(
        "the call is inside of torch.nn.utils.parametrize.cached, where eager computes a parametrized weight once for all that "
        "read it, and a planned step computes its own. Use cached in the forward, or call the planned model outside of it",
        what="torch.nn.utils.parametrize.cached",
    )


def _named(function: Any) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"
