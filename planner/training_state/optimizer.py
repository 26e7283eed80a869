"""What an optimizer takes, found by letting it take its own steps on stand-ins for the parameters.

No formula per optimizer: whatever class it is, its own code makes its state and its intermediates. The stand-ins are on the
meta device, so the steps of a 70B model are counted without its memory. Operators that only change their arguments need not
run there, and a number that the optimizer reads out of a tensor is one.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.errors import OptimizerError
from remat_planner.planner.measurement import StorageMeter
from remat_planner.planner.torch_private import meta_optimized_as
from remat_planner.planner.training_state.options import AS_THE_MODEL, NO_OPTIMIZER, OptimizerNeeds, TrainingState

_STEPS = 2  # the first one makes the state
EIGHT_BIT = "8bit"


def optimizer_needs(
    optimizer: str | Optimizer,
    parameters: Iterable[torch.Tensor],
    *,
    device: str = "cpu",
    state: TrainingState = AS_THE_MODEL,
) -> OptimizerNeeds:
    """Count what ``optimizer`` takes.

    Args:
        optimizer: the name of a class in ``torch.optim`` in any case ("adamw", with its default settings), of an 8-bit one of
            bitsandbytes ("adamw8bit") where that is installed, settings after a colon ("sgd:momentum=0.9", "adamw:fused=True");
            or an instance, whose own parameter groups and settings count.
        parameters: the model's parameters, for a name; those that need no gradient have no state.
        device: type of the device that trains ("cpu", "cuda"), since PyTorch's default is a loop over the parameters on the CPU
            and foreach on a GPU.
        state: which copies of the parameters it steps on, in what shards, and where: on the host it takes nothing. Gradients
            in another dtype than what it steps on are converted for the step.

    Raises:
        OptimizerError: an unknown name or setting, or an optimizer that cannot step on gradients alone.
    """
    if isinstance(optimizer, str):
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            return NO_OPTIMIZER
        stepping = _by_name(optimizer, [_stand_in(p, state) for p in trained])
    else:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        stepping = copy.copy(optimizer)
        stepping.state = defaultdict(dict)
        stepping.param_groups = [
            {**group, "params": [_stand_in(p, state) for p in group["params"] if p.requires_grad]}
            for group in optimizer.param_groups
        ]
    needs = _needs(stepping, device)
    if state.optimizer_offload:
        return NO_OPTIMIZER
    return replace(needs, transient=needs.transient + sum(_converted_bytes(p, state) for p in trained))


def _converted_bytes(parameter: torch.Tensor, state: TrainingState) -> int:
    """Bytes of the copy of the gradient in the dtype that the optimizer steps in; 0 where it is kept in that."""
    dtype = state.optimized_dtype(parameter)
    return 0 if dtype == state.gradient_dtype_of(parameter) else state.local_numel(parameter) * dtype.itemsize


def _stand_in(parameter: torch.Tensor, state: TrainingState) -> nn.Parameter:
    stand_in = nn.Parameter(torch.empty(state.local_shape(parameter), dtype=state.optimized_dtype(parameter), device="meta"))
    stand_in.grad = torch.empty_like(stand_in)
    return stand_in


def _needs(optimizer: Optimizer, device: str) -> OptimizerNeeds:
    stand_ins = [p for group in optimizer.param_groups for p in group["params"]]
    known = [*stand_ins, *(p.grad for p in stand_ins if p.grad is not None)]
    try:
        with meta_optimized_as(device), StorageMeter(known, device="meta") as meter, _OnPaper():  # type: ignore[no-untyped-call]
            for _ in range(_STEPS):
                optimizer.step()
            kept = meter.live
    except Exception as error:  # whatever the optimizer's own code raises
        raise OptimizerError(
            f"what {type(optimizer).__name__} takes cannot be counted: a step on gradients alone failed "
            f"({type(error).__name__}: {error}). Plan without the optimizer, and lower the budget by its state."
        ) from error
    # Step counts may be numbers on the host: on the CPU they are in the same memory.
    on_host = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in _state(optimizer) if t.device.type == "cpu"}
    return OptimizerNeeds(state=kept + (sum(on_host.values()) if device == "cpu" else 0), transient=meter.peak - kept)


def _state(optimizer: Optimizer) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves([*optimizer.state.values()]) if isinstance(t, torch.Tensor)]


class _OnPaper(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes any operator run on meta tensors that only changes its arguments, or reads a number out of one."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        on_meta = any(t.device.type == "meta" for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        if on_meta and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if on_meta and not func._schema.returns:
            return None
        return func(*args, **(kwargs or {}))


def _by_name(asked: str, parameters: list[nn.Parameter]) -> Optimizer:
    name, _, given = asked.partition(":")
    known = _known(name)
    if name.lower() not in known:
        raise OptimizerError(
            f"no optimizer is named {name!r}: choose one of {', '.join(sorted(known))}, or pass the instance you train with"
        )
    try:
        call = ast.parse(f"_({given})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(f"{given!r} is no list of settings with names")
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return known[name.lower()](parameters, **settings)
    except (SyntaxError, TypeError, ValueError, RuntimeError) as error:
        raise OptimizerError(
            f"the optimizer {asked!r} cannot be made ({error}): write its settings as in 'sgd:momentum=0.9,nesterov=True', or "
            "pass the instance you train with"
        ) from error


def _known(name: str) -> dict[str, Any]:
    classes = vars(torch.optim)
    if name.lower().endswith(EIGHT_BIT):
        try:
            import bitsandbytes
        except ImportError as error:
            raise OptimizerError(
                f"{name!r} is an optimizer of bitsandbytes, which is not installed: pip install bitsandbytes"
            ) from error
        classes = vars(bitsandbytes.optim)
    return {
        key.lower(): value
        for key, value in classes.items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
