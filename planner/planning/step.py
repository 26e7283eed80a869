"""A traced training step: the graph that the solvers see, and the capture that the applied model runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import fx, nn

from remat_planner.planner.codegen import copyable_storages
from remat_planner.planner.planning.origin import new_origin
from remat_planner.planner.planning.remarks import remark_on, remark_on_heads
from remat_planner.planner.planning.settings import Loss, Progress, Settings
from remat_planner.planner.planning.signatures import input_signature, state_signature
from remat_planner.planner.training_state import with_training_state
from remat_planner.schedules import Graph, Origin, Schedule, simulate
from remat_planner.tracer import Joint, capture, lower, op_costs
from remat_planner.tracer.costs import MEASURE, OpCost, Profile, allocation_block, is_for_gpu, save_profile
from remat_planner.tracer.lower import Lowering, betweens, has_variant, heads, in_less_memory, splittable, variant_as
from remat_planner.tracer.on_paper import as_on_gpu
from remat_planner.tracer.record import EveryOutput
from remat_planner.tracer.torch_private import is_fake

_log = logging.getLogger("remat_planner")

_CHUNKS = 8
"""Of a loss head, where bits may differ; more and fewer are tried from there."""


@dataclass(frozen=True)
class Step:
    """One training step of a model.

    Attributes:
        graph: its ops with their costs, the training state and optimizer counted.
        joint: the capture behind the graph, in the form that eager runs (``leaner`` changes the graph alone).
        origin: the origin of its schedules.
        settings: what its schedules are planned with.
    """

    graph: Graph
    joint: Joint
    origin: Origin
    settings: Settings


@dataclass(frozen=True)
class LeanerStep(Step):
    """A step in a form that takes less memory.

    Attributes:
        replaced: for each op that stands in the place of others, the names of those, which are ops of the step in eager's form.
        whole, overwriting, chunks: what it was made with; see ``tracer.lower.in_less_memory``.
    """

    replaced: Mapping[str, tuple[str, ...]]
    whole: Collection[str]
    overwriting: bool
    chunks: Mapping[str, int]


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
    if settings.variants == "any":
        remark_on_heads(joint)
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
    lowering = lower(joint)
    costs = op_costs(lowering.costed, costs=settings.costs, progress=progress)
    graph, block = _with_costs(lowering, costs, settings)
    loss = _loss_description(joint, settings.loss)
    origin = new_origin(
        joint.model, parameters, inputs, joint.autocast, loss, settings, block, scatter=_scatter(costs.values())
    )
    return Step(graph=graph, joint=joint, origin=origin, settings=settings)


def eager_graph(schedule: Schedule, joint: Joint, settings: Settings) -> Graph:
    """The step of ``schedule``, captured as ``joint``, as eager runs it; costed anew where the schedule is in a leaner form."""
    graph = schedule.graph
    if variant_as(joint, graph) is not joint:
        graph = costed_step(joint, schedule.origin.parameters, schedule.origin.inputs, settings).graph
    return graph.eager


def has_leaner_form(step: Step) -> bool:
    """Whether ``leaner`` has anything to change."""
    return has_variant(step.joint) or any(_chunks(step))


def forms(step: Step) -> Iterator[LeanerStep]:
    """The leaner forms of the step: one whose ops take no more time and run as often as they may, then the leanest.

    Where bits may differ (``Settings.variants``), loss heads are in chunks, then also what lies between linear layers, which
    takes more time and less memory; the forms with eager's bits come last.
    """
    in_two = [node.meta["name"] for node in splittable(step.joint)]
    for chunks in _chunks(step):
        plain = leaner(step, whole=in_two, overwriting=False, chunks=chunks)
        if plain.replaced:
            yield plain
        leanest = leaner(step, chunks=chunks)
        if leanest.replaced != plain.replaced:
            yield leanest


def in_chunks(step: Step, form: LeanerStep, count: int) -> LeanerStep:
    """The ``form`` of ``step`` with so many chunks of each kind."""
    return leaner(step, whole=form.whole, overwriting=form.overwriting, chunks=dict.fromkeys(form.chunks, count))


def _chunks(step: Step) -> list[dict[str, int]]:
    """What may be in chunks, with their number by name: loss heads alone, then all of it, then nothing."""
    if step.settings.variants == "exact":
        return [{}]
    of_heads = {head.name: _CHUNKS for head in heads(step.joint)[0]}
    of_all = of_heads | {between.name: _CHUNKS for between in betweens(step.joint)}
    return [*([of_heads] if of_heads and of_all != of_heads else []), of_all, *([{}] if of_all else [])]


def leaner(
    step: Step,
    *,
    whole: Collection[str] = (),
    overwriting: bool = True,
    chunks: Mapping[str, int] = MappingProxyType({}),
) -> LeanerStep:
    """The same step in less memory and perhaps in a little more time; see ``tracer.lower.in_less_memory`` for the arguments."""
    at_hand = step.settings.costs == MEASURE
    joint = in_less_memory(step.joint, at_hand=at_hand, whole=whole, overwriting=overwriting, chunks=chunks)
    lowering = lower(joint)
    graph, _ = _with_costs(lowering, op_costs(lowering.costed, costs=step.settings.costs), step.settings)
    in_eager, here = (simulate(g, range(len(g.ops))).bytes.tolist() for g in (step.graph.eager, graph.eager))
    wholes = {node.meta["name"]: node.meta["wholes"] for node in joint.ops if "wholes" in node.meta}
    replaced = {name: tuple(whole.meta["name"] for whole in nodes) for name, nodes in wholes.items()}
    ops = []
    for op, bytes_here in zip(graph.ops, here, strict=True):
        bytes_in_eager = [in_eager[step.graph.by_name[name]] for name in replaced.get(op.name, ())]
        more = max(0, max(bytes_in_eager, default=0) - bytes_here)
        ops.append(replace(op, eager_workspace=op.eager_workspace + more))
    graph = replace(graph, ops=tuple(ops))
    graph = graph if step.graph.pools else graph.without_transfers
    return LeanerStep(graph, step.joint, step.origin, step.settings, replaced, whole, overwriting, chunks)


def _with_costs(lowering: Lowering, costs: Mapping[fx.Node, OpCost], settings: Settings) -> tuple[Graph, int]:
    """The lowered graph with costs and settings, and the allocation block of its device."""
    block = allocation_block(lowering.costed, settings.costs)
    return with_settings(lowering.with_costs(costs, block=block), lowering.joint, settings, block=block), block


def _scatter(costs: Iterable[OpCost]) -> float:
    """By how much the ops' seconds scatter, as a fraction of their sum."""
    of_ops = list(costs)
    seconds = sum(cost.seconds for cost in of_ops)
    return sum(cost.scatter for cost in of_ops) / seconds if seconds else 0.0


def with_settings(graph: Graph, joint: Joint, settings: Settings, *, block: int) -> Graph:
    """The costed ``graph`` with the training state and the optimizer of ``settings`` counted, and with its pools."""
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
    return save_profile(lowering.costed, path, progress=progress)


def _loss_description(joint: Joint, loss: Loss | None) -> str:
    if loss is not None and not isinstance(loss, EveryOutput):
        return f"the caller's {getattr(loss, '__qualname__', type(loss).__name__)}"
    if loss is None and len(joint.tangent_outputs) == 1:
        return "the model's own loss"
    return f"a gradient for each of {len(joint.tangent_outputs)} outputs"
