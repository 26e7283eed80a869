"""Bytes of an optimizer, learned by running its own steps on stand-ins for the parameters.

No formula per optimizer: whatever its class, its own code allocates its state and its intermediates. The stand-ins are on the
meta device, so the steps of a 70B model take no memory here. Operators that only change their arguments need not run there, and
a number that the optimizer reads out of a tensor is taken to be one.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.errors import OptimizerError
from remat_planner.planner.measurement import StorageMeter
from remat_planner.planner.torch_private import meta_optimized_as
from remat_planner.planner.training_state.per_parameter import gradient_dtype, local_numel, local_shape, optimizer_dtype
from remat_planner.schedules import TrainingState

_STEPS = 2  # the first one allocates the state
EIGHT_BIT = "8bit"
"""How the names of bitsandbytes' optimizers end, which are looked up there."""


@dataclass(frozen=True)
class OptimizerNeeds:
    """Bytes of an optimizer.

    Attributes:
        state: bytes that it retains from one step to the next.
        transient: peak bytes of its step beyond parameters, gradients and state. A foreach AdamW takes about one more copy of
            the parameters, a fused one nothing.
    """

    state: int
    transient: int


NO_OPTIMIZER = OptimizerNeeds(0, 0)


def optimizer_needs(
    optimizer: str | Optimizer,
    parameters: Iterable[torch.Tensor],
    *,
    device: str = "cpu",
    training: TrainingState | None = None,
) -> OptimizerNeeds:
    """Count the bytes that ``optimizer`` takes on the device.

    Args:
        optimizer: the name of a class in ``torch.optim`` in any case ("adamw", with its default settings), of an 8-bit one of
            bitsandbytes ("adamw8bit") if that is installed, settings after a colon ("sgd:momentum=0.9", "adamw:fused=True");
            or an instance, whose own parameter groups and settings count.
        parameters: the model's parameters, for a name; those without a gradient have no state.
        device: type of the device that trains ("cpu", "cuda"): PyTorch loops over the parameters on a CPU by default, and uses
            foreach on a GPU.
        training: which copies of the parameters the optimizer steps on, in what shards, and whether on the host, where it takes
            no bytes of the device. Gradients of another dtype than the copies are converted for the step.

    Raises:
        OptimizerError: an unknown name or setting, or an optimizer that cannot step on gradients alone.
    """
    training = training or TrainingState()
    if isinstance(optimizer, str):
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            return NO_OPTIMIZER
        stepping = _optimizer_named(optimizer, [_stand_in(p, training) for p in trained])
    elif not isinstance(optimizer, Optimizer):
        raise OptimizerError(f"the optimizer is a {type(optimizer).__name__}: give a name such as 'adamw', or an instance")
    else:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        stepping = copy.copy(optimizer)
        stepping.state = defaultdict(dict)
        stepping.param_groups = [
            {**group, "params": [_stand_in(p, training) for p in group["params"] if p.requires_grad]}
            for group in optimizer.param_groups
        ]
    needs = _measured_needs(stepping, device)
    if training.optimizer_offload:
        return NO_OPTIMIZER
    return replace(needs, transient=needs.transient + sum(_conversion_bytes(p, training) for p in trained))


def _conversion_bytes(parameter: torch.Tensor, training: TrainingState) -> int:
    """Bytes of the gradient's copy in the dtype that the optimizer steps in; 0 if the gradient has that dtype already."""
    dtype = optimizer_dtype(parameter, training)
    return 0 if dtype == gradient_dtype(parameter, training) else local_numel(parameter, training) * dtype.itemsize


def _stand_in(parameter: torch.Tensor, training: TrainingState) -> nn.Parameter:
    shape, dtype = local_shape(parameter, training), optimizer_dtype(parameter, training)
    stand_in = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
    stand_in.grad = torch.empty_like(stand_in)
    return stand_in


def _measured_needs(optimizer: Optimizer, device: str) -> OptimizerNeeds:
    stand_ins = [p for group in optimizer.param_groups for p in group["params"]]
    known = [*stand_ins, *(p.grad for p in stand_ins if p.grad is not None)]
    try:
        with meta_optimized_as(device), StorageMeter(known, device="meta") as meter, _OnPaper():  # type: ignore[no-untyped-call]
            for _ in range(_STEPS):
                optimizer.step()
            state = meter.live
    except Exception as error:  # whatever the optimizer's own code raises
        raise OptimizerError(
            f"the bytes of {type(optimizer).__name__} cannot be counted: its step on gradients alone failed "
            f"({type(error).__name__}: {error}). Plan without the optimizer, and lower the budget by its state."
        ) from error
    if device == "cpu":  # step counts may be tensors on the host, which is the device that trains here
        on_host = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in _state_tensors(optimizer) if t.is_cpu}
        return OptimizerNeeds(state=state + sum(on_host.values()), transient=meter.peak - state)
    return OptimizerNeeds(state=state, transient=meter.peak - state)


def _state_tensors(optimizer: Optimizer) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves([*optimizer.state.values()]) if isinstance(t, torch.Tensor)]


class _OnPaper(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets operators run on meta tensors that only change their arguments, or that read a number out of one."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        on_meta = any(t.device.type == "meta" for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        if on_meta and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if on_meta and not func._schema.returns:
            return None
        return func(*args, **(kwargs or {}))


def _optimizer_named(description: str, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer of "name" or "name:setting=value,...", on ``parameters``."""
    name, _, arguments = description.partition(":")
    classes = _classes(name)
    if name.lower() not in classes:
        raise OptimizerError(
            f"no optimizer is named {name!r}: choose one of {', '.join(sorted(classes))}, or pass the instance you train with"
        )
    try:
        call = ast.parse(f"_({arguments})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(f"{arguments!r} is not a list of named settings")
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return classes[name.lower()](parameters, **settings)
    except (SyntaxError, TypeError, ValueError, RuntimeError) as error:
        raise OptimizerError(
            f"the optimizer {description!r} cannot be constructed ({error}): write its settings as in "
            "'sgd:momentum=0.9,nesterov=True', or pass the instance you train with"
        ) from error


def _classes(name: str) -> dict[str, Any]:
    """The optimizers of the library that ``name`` belongs to, by their name in lower case."""
    library = vars(torch.optim)
    if name.lower().endswith(EIGHT_BIT):
        try:
            import bitsandbytes
        except ImportError as error:
            raise OptimizerError(
                f"{name!r} is an optimizer of bitsandbytes, which is not installed: pip install bitsandbytes"
            ) from error
        library = vars(bitsandbytes.optim)
    return {
        key.lower(): value
        for key, value in library.items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
