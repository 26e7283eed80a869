"""Refusals of models, before anything runs: no module, wrapped, compiled, sharded, or with nothing to train."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from remat_planner.tracer.errors import ModelNotSupportedError, NothingToTrainError
from remat_planner.tracer.lazy_types import loaded
from remat_planner.tracer.refusals.compiled import refuse_compiled
from remat_planner.tracer.refusals.layouts import refuse_state_layout


def refuse_model(model: Any) -> None:
    """Refuse a model that is not a plain module, at any depth.

    Raises:
        ModelNotSupportedError: it is no module, or is data-parallel, sharded or compiled, or has such a module inside; or a
            lazy module in it has not seen an input yet; or it is TorchScript itself, or has a sparse tensor.
    """
    refuse_no_module(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelNotSupportedError(
            "the model is scripted or traced, so all of it would be one operator, and there is nothing to plan. Plan the "
            "module before torch.jit.script or torch.jit.trace; scripted modules inside of it run as they are",
            kind="TorchScript",
        )
    refuse_compiled(model)
    _refuse_wrapped(model)
    _refuse_without_shape(model)
    _refuse_sharded_tensors(model)
    refuse_state_layout(model)


def refuse_no_module(model: Any) -> None:
    """Refuse what is no module at all.

    Raises:
        ModelNotSupportedError: ``model`` is of another type.
    """
    if not isinstance(model, nn.Module):
        raise ModelNotSupportedError(
            f"the model is a {type(model).__name__}: pass an nn.Module (not its class, nor its state_dict)",
            kind=type(model).__name__,
        )


def refuse_without_backward(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Refuse a step in which nothing gets a gradient; ``inputs`` are the leaves of the model's arguments.

    Raises:
        NothingToTrainError: neither a parameter nor an input requires a gradient.
    """
    tensors = (*model.parameters(), *(leaf for leaf in inputs if isinstance(leaf, torch.Tensor)))
    if not any(tensor.requires_grad for tensor in tensors):
        raise NothingToTrainError(
            f"no parameter of {type(model).__name__} and no input requires a gradient, so there is no backward to plan. "
            "Set requires_grad on the parameters that are trained"
        )


def refuse_sharded_call(inputs: Iterable[Any]) -> None:
    """Refuse a graph of a sharded module, which ``torch.compile`` captures while the module is called; ``inputs`` are its own.

    Raises:
        ModelNotSupportedError: an input is a DTensor, or a module under ``fully_shard`` is being called.
    """
    sharded = loaded("torch.distributed.tensor", "DTensor")
    if sharded is not None and any(isinstance(value, sharded) for value in inputs):
        raise ModelNotSupportedError(
            "an input of the graph is a DTensor, of which each rank holds a part: tensor-parallel modules cannot be compiled "
            "within a budget. Leave them to plain torch.compile",
            kind="DTensor",
        )
    fsdp2 = loaded("torch.distributed.fsdp", "FSDPModule")
    frame = inspect.currentframe() if fsdp2 is not None else None
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), fsdp2):
            raise ModelNotSupportedError(
                "the graph is one of a module under fully_shard, whose gathered parameters and whose other blocks take memory "
                "that this graph does not show: such a model cannot be compiled within a budget. Plan it by regions, "
                'remat_planner.plan(..., regions="model.layers.*"), and apply that without torch.compile',
                kind="fully_shard",
            )
        frame = frame.f_back


def _refuse_wrapped(model: nn.Module) -> None:
    wrappers = list(_wrappers())
    for path, module in model.named_modules():
        for kind, wrapper, advice in wrappers:
            if isinstance(module, wrapper):
                subject = f"module {path!r} is" if path else "the model is"
                raise ModelNotSupportedError(f"{subject} wrapped by {kind}: {advice}", kind=kind)


def _wrappers() -> Iterator[tuple[str, type, str]]:
    """Name, class and advice for each wrapper class that is loaded."""
    yield (
        "DataParallel",
        nn.DataParallel,
        "it copies the model in each step. Plan the module inside, and train with DDP around it",
    )
    yield (
        "DistributedDataParallel",
        nn.parallel.DistributedDataParallel,
        "a capture would leave the all-reduce out. Plan and apply the module inside, then wrap the applied one; or "
        'plan by regions, regions="module.layers.*"',
    )
    fsdp1 = loaded("torch.distributed.fsdp", "FullyShardedDataParallel")
    if fsdp1 is not None:
        yield "FullyShardedDataParallel", fsdp1, "use fully_shard (FSDP2) and plan by regions, one for each block"
    fsdp2 = loaded("torch.distributed.fsdp", "FSDPModule")
    if fsdp2 is not None:
        yield (
            "fully_shard",
            fsdp2,
            'it gathers parameters when it is called. Plan by regions, regions="model.layers.*", none of them inside another',
        )


def _refuse_without_shape(model: nn.Module) -> None:
    names = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if names:
        raise ModelNotSupportedError(
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} of a lazy module have no shape before the first call: "
            "call the model once with an input, then plan it",
            kind="lazy module",
        )


def _refuse_sharded_tensors(model: nn.Module) -> None:
    sharded = loaded("torch.distributed.tensor", "DTensor")
    if sharded is None:
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, sharded):
            raise ModelNotSupportedError(
                f"{name} is a DTensor, of which each rank holds a part, and a capture would leave its communication out. "
                'After fully_shard, plan by regions, regions="model.layers.*", which are captured while their '
                "parameters are gathered. Tensor-parallel modules cannot be planned: name regions without them, or shard "
                "with fully_shard instead",
                kind="DTensor",
            )
