"""Models and calls that must not be captured: a capture of them would fail obscurely, or run and be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from remat_planner.tracer.errors import (
    InputsDoNotFitError,
    ModelNotSupportedError,
    NothingToTrainError,
    PythonStateError,
    reassigned_error,
)
from remat_planner.tracer.joint import State, tensors_inside
from remat_planner.tracer.lazy_types import loaded
from remat_planner.tracer.refusals.compiled import refuse_compiled


def refuse_wrapped(model: Any) -> None:
    """Refuse what is no plain module.

    Raises:
        ModelNotSupportedError: no module, data-parallel, sharded, or compiled; found at any depth.
    """
    if not isinstance(model, nn.Module):
        raise ModelNotSupportedError(
            f"the model is a {type(model).__name__}: an nn.Module is needed (not its class, nor its state_dict)",
            kind=type(model).__name__,
        )
    refuse_compiled(model)
    wrappers = dict(_wrappers())
    for path, module in model.named_modules():
        for kind, (cls, advice) in wrappers.items():
            if isinstance(module, cls):
                where = f"module {path!r} is" if path else "the model is"
                raise ModelNotSupportedError(f"{where} wrapped by {kind}: {advice}", kind=kind)
    sharded = loaded("torch.distributed.tensor", "DTensor")
    if sharded is not None:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if isinstance(tensor, sharded):
                raise ModelNotSupportedError(
                    f"{name} is a DTensor, of which each rank has a part: what it communicates would be left out of a "
                    'capture. After fully_shard, plan by regions, regions="model.layers.*", which are captured when their '
                    "parameters are gathered. Tensor-parallel modules cannot be planned: name regions without them, or shard "
                    "with fully_shard instead",
                    kind="DTensor",
                )


def _wrappers() -> list[tuple[str, tuple[type, str]]]:
    """Wrapper classes that are loaded, and what to do instead."""
    found: list[tuple[str, tuple[type, str]]] = [
        (
            "DataParallel",
            (nn.DataParallel, "it copies the model in each step; plan the module inside, and train with DDP around it"),
        ),
        (
            "DistributedDataParallel",
            (
                nn.parallel.DistributedDataParallel,
                "a capture would leave the all-reduce out. Plan and apply the module inside, then wrap the applied one; or "
                'plan by regions, regions="module.layers.*"',
            ),
        ),
    ]
    fsdp = loaded("torch.distributed.fsdp", "FullyShardedDataParallel")
    if fsdp is not None:
        found.append(("FullyShardedDataParallel", (fsdp, "use fully_shard (FSDP2) and plan by regions, one for each block")))
    fsdp2 = loaded("torch.distributed.fsdp", "FSDPModule")
    if fsdp2 is not None:
        advice = 'it gathers parameters when it is called. Plan by regions, regions="model.layers.*", none with another inside'
        found.append(("fully_shard", (fsdp2, advice)))
    return found


def refuse_frozen(model: nn.Module, state: State) -> None:
    """Refuse a model without a parameter to train.

    Raises:
        NothingToTrainError: no parameter requires a gradient.
    """
    if not any(p.requires_grad for p in state.parameters):
        raise NothingToTrainError(
            f"no parameter of {type(model).__name__} requires a gradient: there is no backward to plan. "
            "Set requires_grad on the parameters that are trained"
        )


def refuse_misplaced_arguments(args: Any, kwargs: Any) -> None:
    """Refuse arguments that are not a tuple and a dictionary: a lone tensor would be taken apart into its rows.

    Raises:
        InputsDoNotFitError: ``args`` or ``kwargs`` is of another kind.
    """
    if not isinstance(args, (tuple, list)):
        raise InputsDoNotFitError(
            f"args is a {type(args).__name__}: pass the positional inputs as a tuple, `(x,)` for one input", source=""
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputsDoNotFitError(f"kwargs is a {type(kwargs).__name__}: pass the named inputs as a dictionary", source="")


def refuse_hidden_tensors(leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor) and tensors_inside(leaf):
            raise InputsDoNotFitError(
                f"an input is a {type(leaf).__name__} with tensors inside, which would be taken for constants: pass these "
                "themselves, in tuples, lists or dictionaries (`model(**batch)`)",
                source="",
            )


def refuse_python_state(names: Sequence[str]) -> None:
    """Refuse a forward that the next step would find with other Python values.

    Raises:
        PythonStateError: there are ``names`` of such attributes.
    """
    if names:
        raise PythonStateError(
            f"the forward changes Python state from step to step: {', '.join(names)}. A captured step would go on with what it "
            "was when planned. Keep it in a buffer that is updated in place (register_buffer, `self.count.add_(1)`), or change "
            "it outside of the forward; where it only has to be filled once, run the model once before planning",
            names=tuple(names),
        )


def refuse_captured_state(module: fx.GraphModule, state: State, reassigned: Mapping[int, str]) -> None:
    """Refuse a graph with a tensor in it that changes from step to step.

    Args:
        module: the graph.
        state: what the model registers.
        reassigned: names of the attributes that the forward gave another tensor, by the id of the tensor that they held.

    Raises:
        StateReassignedError: the forward reads an attribute and puts another tensor into it.
        ModelNotSupportedError: it reaches a parameter on a way of its own (a closure, a global).
    """
    slots = (*state.parameter_slots, *state.buffer_slots)
    names = {id(t): slot.name for t, slot in zip((*state.parameters, *state.buffers), slots, strict=True)}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        constant = getattr(module, node.target)
        if id(constant) in reassigned:
            raise reassigned_error([reassigned[id(constant)]])
        if id(constant) in names or (isinstance(constant, torch.Tensor) and constant.requires_grad):
            name = names.get(id(constant), "a tensor that requires a gradient and is no parameter of the model")
            raise ModelNotSupportedError(
                f"the forward reaches {name} not through the module but through a closure, a global or a container: "
                "register it as a parameter or buffer and use it from there",
                kind="closure",
            )
