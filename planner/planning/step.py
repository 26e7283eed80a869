"""A traced training step: the graph that the solvers see, and the capture that the applier runs."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import fx, nn

from remat_planner.planner.planning.settings import Loss, Progress, Settings
from remat_planner.planner.planning.signatures import input_signature, mode_signature, state_signature
from remat_planner.planner.training_state import with_training_state
from remat_planner.schedules import Graph, Origin
from remat_planner.tracer import Joint, capture, lower, op_costs
from remat_planner.tracer.costs import Profile, allocation_block, is_for_gpu, save_profile
from remat_planner.tracer.lower import Lowering
from remat_planner.tracer.on_paper import as_on_gpu
from remat_planner.tracer.record import every_output
from remat_planner.tracer.torch_private import is_fake

_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class Step:
    """One training step of a model, traced and costed."""

    graph: Graph
    joint: Joint
    origin: Origin
    settings: Settings


def trace_step(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Step:
    """Capture the step, lower it to a graph and find what its ops cost; ``progress(done, total)`` follows the costing.

    Raises:
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    settings = settings or Settings()
    kwargs = dict(kwargs or {})
    # A model of real tensors may be planned for a GPU and run here all the same; one of fakes can only be run there.
    fakes = any(map(is_fake, model.parameters()))
    with as_on_gpu(fused=fakes) if is_for_gpu(settings.costs) else nullcontext():
        joint = capture(model, args, kwargs, loss=settings.loss)
    for note in joint.warnings:
        _log.warning("%s", note)
    return costed_step(joint, state_signature(model), input_signature(args, kwargs), settings, progress=progress)


def costed_step(
    joint: Joint,
    parameters: Mapping[str, str],
    inputs: Mapping[str, str],
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> Step:
    """The second half of ``trace_step``, for a capture; ``parameters`` and ``inputs`` are the signatures of its call."""
    lowering = lower(joint)
    nodes = _costed(lowering)
    found = op_costs(nodes, costs=settings.costs, progress=progress)
    block = allocation_block(nodes, settings.costs)
    graph = with_settings(lowering.with_costs(found, block=block), joint, settings, block=block)
    loss = _loss_description(joint, settings.loss)
    origin = own_origin(joint.model, parameters, inputs, joint.autocast, loss, settings, block)
    return Step(graph=graph, joint=joint, origin=origin, settings=settings)


def with_settings(graph: Graph, joint: Joint, settings: Settings, *, block: int) -> Graph:
    """``graph``, which has its costs, with the training state and the optimizer of ``settings`` counted."""
    graph = with_training_state(graph, joint, settings.state, block=block)
    if settings.optimizer is None:
        return graph
    needs = settings.optimizer_needs
    return dataclasses.replace(graph, constants={**graph.constants, "optimizer": needs.state}, update=needs.transient)


def own_origin(
    model: nn.Module,
    parameters: Mapping[str, str],
    inputs: Mapping[str, str],
    autocast: Mapping[str, str],
    loss: str,
    settings: Settings,
    block: int,
) -> Origin:
    """Where a schedule that is made here and now comes from.

    ``parameters`` and ``inputs`` are signatures, ``autocast`` is the ambient one, ``block`` is what memory is handed out in
    multiples of.
    """
    return Origin(
        model=type(model).__qualname__,
        parameters=parameters,
        inputs=inputs,
        modes=mode_signature(model),
        autocast=dict(autocast),
        loss=loss,
        device=_device(model),
        costs=settings.costs,
        optimizer=settings.optimizer,
        gradient_dtype=settings.state.gradient_dtype,
        master_weights=settings.state.master_weights,
        shard=settings.state.shard,
        zero_stage=settings.state.zero_stage,
        optimizer_offload=settings.state.optimizer_offload,
        accumulate=settings.state.accumulate,
        gradient_buckets=settings.state.gradient_buckets,
        allocation_block=block,
        budget_on=settings.budget_on,
        versions={"python": platform.python_version(), "torch": str(torch.__version__), "planner": _own_version()},
    )


def profile_step(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | os.PathLike[str],
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure every operator of the step on the model's device and write a profile to ``path``, for ``costs=path`` elsewhere.

    Raises:
        OSError: the file cannot be written.
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
        tracer.cost_errors.CostError: the device is not here, or operators cannot be run alone.
    """
    lowering = lower(capture(model, args, dict(kwargs or {}), loss=loss))
    return save_profile(_costed(lowering), path, progress=progress)


def _costed(lowering: Lowering) -> tuple[fx.Node, ...]:
    return (*lowering.node_of.values(), *lowering.loss_nodes)


def _loss_description(joint: Joint, loss: Loss | None) -> str:
    if loss is not None and loss is not every_output:
        return f"the caller's {getattr(loss, '__qualname__', type(loss).__name__)}"
    if loss is None and len(joint.tangent_outputs) == 1:
        return "the model's own loss"
    return f"a gradient for each of {len(joint.tangent_outputs)} outputs"


def _device(model: nn.Module) -> str:
    devices = {p.device for p in model.parameters()} or {torch.device("cpu")}
    return ", ".join(sorted(torch.cuda.get_device_name(d) if d.type == "cuda" else str(d) for d in devices))


def _own_version() -> str:
    try:
        return version("remat-planner")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"
