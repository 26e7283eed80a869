"""A traced training step: the graph that the solvers see, and the capture that the applier runs."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from planner.optimizer import NO_OPTIMIZER, OptimizerNeeds
from planner.training_state import AS_THE_MODEL, TrainingState, with_training_state
from schedules import Graph, Origin, Schedule
from schedules.schedule import BudgetOn
from tracer import Joint, capture, lower, op_costs
from tracer.absent_gpu import as_on_gpu
from tracer.costs import allocation_block, is_for_gpu, save_profile
from tracer.loss import every_output
from tracer.lower import Lowering
from tracer.profile_file import Profile
from tracer.torch_private import is_fake

_log = logging.getLogger("planner")

Loss = Callable[[Any], torch.Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a schedule was asked for, so that the same can be asked again for other inputs.

    Attributes:
        solver: a name out of ``solvers.available()``.
        time_limit: seconds that solving may take.
        loss: output -> scalar, or None for the default.
        costs: "measure", the name of a GPU, or a profile file.
        optimizer: name of the optimizer whose state is counted, or None.
        state: gradient dtype, master weights, shards, gradient buckets, and where the optimizer and the gradients are.
        budget_on: what the budget limits: "allocated" or, on a GPU, "reserved" bytes.
        optimizer_needs: bytes of that state and of the optimizer's step.
    """

    solver: str = "auto"
    time_limit: float = 60.0
    loss: Loss | None = None
    costs: str = "measure"
    optimizer: str | None = None
    state: TrainingState = AS_THE_MODEL
    optimizer_needs: OptimizerNeeds = NO_OPTIMIZER
    budget_on: BudgetOn = "allocated"


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


def state_signature(model: nn.Module) -> dict[str, str]:
    """The form of every parameter and buffer by its full name, frozen parameters marked."""
    forms = {
        name: form_of(p) + ("" if p.requires_grad else " frozen") for name, p in model.named_parameters(remove_duplicate=False)
    }
    return forms | {name: form_of(b) for name, b in model.named_buffers(remove_duplicate=False)}


def mode_signature(model: nn.Module) -> dict[str, str]:
    """The mode of each module that is not in that of the one it lies in; the model itself, "", lies in nothing and trains."""
    found: dict[str, str] = {}
    above = {id(model): True}
    for name, module in model.named_modules():
        if module.training != above[id(module)]:
            found[name] = "training" if module.training else "evaluation"
        above |= {id(child): module.training for child in module.children()}
    return found


def input_signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The form of every input by its place: "[0]" for the first positional one, "['labels']" for a named one.

    Leaves of containers that were registered without names for their entries are numbered, "#0", "#1".
    """
    inputs = (tuple(args), dict(kwargs))
    try:
        named = [(pytree.keystr(path[1:]), leaf) for path, leaf in pytree.tree_flatten_with_path(inputs)[0]]
    except ValueError:
        named = [(f"#{k}", leaf) for k, leaf in enumerate(pytree.tree_leaves(inputs))]
    return {place: _form_of_leaf(leaf) for place, leaf in named}


def _form_of_leaf(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return form_of(leaf)
    if leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(leaf)
    return type(leaf).__qualname__  # the repr of an arbitrary object may name its address


def form_of(tensor: torch.Tensor) -> str:
    """Dtype and shape of a tensor, as in "float32[4, 8]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


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


# The capture and settings behind a schedule that was planned in this process: applying it need not capture again.
_live: weakref.WeakKeyDictionary[Schedule, tuple[Joint, Settings]] = weakref.WeakKeyDictionary()


def remember_capture(schedule: Schedule, step: Step) -> None:
    """Keep the capture and the settings at hand for as long as the schedule lives."""
    _live[schedule] = (step.joint, step.settings)


def remembered_capture(schedule: Schedule) -> Joint | None:
    """The capture that the schedule was planned on; None where it was loaded from a file."""
    return _live[schedule][0] if schedule in _live else None


def settings_of(schedule: Schedule) -> Settings:
    """How the schedule was asked for; from its file where it was loaded, which cannot hold the loss's code."""
    if schedule in _live:
        return _live[schedule][1]
    origin = schedule.origin
    return Settings(
        costs=origin.costs or "measure",
        optimizer=origin.optimizer,
        state=TrainingState(
            origin.gradient_dtype,
            origin.master_weights,
            origin.shard,
            origin.zero_stage,
            origin.optimizer_offload,
            origin.accumulate,
            origin.gradient_buckets,
        ),
        optimizer_needs=OptimizerNeeds(schedule.graph.constants.get("optimizer", 0), schedule.graph.update),
        budget_on=origin.budget_on,
    )
