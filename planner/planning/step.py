"""A traced training step: the graph that the solvers see, and the capture that the applied model runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from remat_planner.planner.codegen import copyable_storages
from remat_planner.planner.planning.origin import new_origin
from remat_planner.planner.planning.remarks import remark_on
from remat_planner.planner.planning.settings import Loss, Progress, Settings
from remat_planner.planner.planning.signatures import input_signature, state_signature
from remat_planner.planner.training_state import with_training_state
from remat_planner.schedules import Graph, Origin
from remat_planner.tracer import Joint, capture, lower, op_costs
from remat_planner.tracer.costs import MEASURE, Profile, allocation_block, is_for_gpu, save_profile
from remat_planner.tracer.lower import Lowering, has_same_bits_in_parts, split_as, splittable, with_split_gradients
from remat_planner.tracer.on_paper import as_on_gpu
from remat_planner.tracer.record import EveryOutput
from remat_planner.tracer.torch_private import is_fake

_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class Step:
    """One training step of a model.

    Attributes:
        graph: its ops with their costs, the training state and optimizer counted.
        joint: the capture behind the graph, in which nothing is in parts (``with_parts``).
        origin: the origin of its schedules.
        settings: what its schedules are planned with.
    """

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
    """Capture the step, lower it to a graph and cost its ops; ``progress(done, total)`` is called while ops are costed.

    Raises:
        tracer.CaptureError: the model cannot be captured; the message says why and what to do.
    """
    settings = settings or Settings()
    kwargs = dict(kwargs or {})
    # A model of real tensors that is planned for an absent GPU still runs here later; one of fake tensors never does.
    fakes = any(map(is_fake, model.parameters()))
    with as_on_gpu(fused=fakes) if is_for_gpu(settings.costs) else nullcontext():
        joint = capture(model, args, kwargs, loss=settings.loss)
    remark_on(joint)
    return costed_step(joint, state_signature(model), input_signature(args, kwargs), settings, progress=progress)


def costed_step(
    joint: Joint,
    parameters: Mapping[str, str],
    inputs: Mapping[str, str],
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> Step:
    """The step of an existing capture; ``parameters`` and ``inputs`` are the signatures of its call. See ``trace_step``."""
    graph, block = _costed_graph(joint, settings, progress)
    loss = _loss_description(joint, settings.loss)
    origin = new_origin(joint.model, parameters, inputs, joint.autocast, loss, settings, block)
    return Step(graph=graph, joint=joint, origin=origin, settings=settings)


def has_parts(step: Step) -> bool:
    """Whether ``with_parts`` has anything to split."""
    return bool(splittable(step.joint))


def with_parts(step: Step, whole: Collection[str] = ()) -> Step | None:
    """The same step with the backward of each convolution in two ops, but for those named ``whole``; None where none is.

    It runs in less memory, and perhaps in a little more time.
    """
    split = [node for node in splittable(step.joint) if node.meta["name"] not in whole]
    if step.settings.costs == MEASURE:
        split = [node for node in split if has_same_bits_in_parts(node)]
    if not split:
        return None
    joint = with_split_gradients(step.joint, [node.meta["name"] for node in split])
    return replace(step, graph=_costed_graph(joint, step.settings)[0])


def _costed_graph(joint: Joint, settings: Settings, progress: Progress | None = None) -> tuple[Graph, int]:
    """The graph of ``joint`` with costs and settings, and the allocation block of its device."""
    lowering = lower(joint)
    nodes = _costed_nodes(lowering)
    costs = op_costs(nodes, costs=settings.costs, progress=progress)
    block = allocation_block(nodes, settings.costs)
    return with_settings(lowering.with_costs(costs, block=block), joint, settings, block=block), block


def with_settings(graph: Graph, joint: Joint, settings: Settings, *, block: int) -> Graph:
    """The costed ``graph`` with the training state and the optimizer of ``settings`` counted, and with its pools."""
    joint = split_as(joint, graph)
    graph = with_training_state(graph, joint, settings.training, block=block)
    if settings.optimizer is not None:
        needs = settings.optimizer_needs
        graph = replace(graph, constants={**graph.constants, "optimizer": needs.state}, update=needs.transient)
    if settings.pools:
        graph = graph.with_transfers(settings.pools, copyable_storages(graph, joint))
    return graph


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
        tracer.costs.CostError: the device is absent, or an operator cannot run by itself.
    """
    lowering = lower(capture(model, args, dict(kwargs or {}), loss=loss))
    return save_profile(_costed_nodes(lowering), path, progress=progress)


def _costed_nodes(lowering: Lowering) -> tuple[fx.Node, ...]:
    return (*lowering.node_of.values(), *lowering.wholes, *lowering.loss_nodes)


def _loss_description(joint: Joint, loss: Loss | None) -> str:
    if loss is not None and not isinstance(loss, EveryOutput):
        return f"the caller's {getattr(loss, '__qualname__', type(loss).__name__)}"
    if loss is None and len(joint.tangent_outputs) == 1:
        return "the model's own loss"
    return f"a gradient for each of {len(joint.tangent_outputs)} outputs"
