"""A traced training step: the graph that the solvers see, and the capture that the applier runs."""

from __future__ import annotations

import dataclasses
import os
import platform
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from planner.optimizer import NO_OPTIMIZER, OptimizerNeeds
from schedules import Graph, Origin, Schedule
from tracer import Joint, capture, lower, op_costs
from tracer.costs import allocation_block, save_profile
from tracer.lower import Lowering
from tracer.profile_file import Profile

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
        optimizer_needs: bytes of that state and of the optimizer's step.
    """

    solver: str = "auto"
    time_limit: float = 60.0
    loss: Loss | None = None
    costs: str = "measure"
    optimizer: str | None = None
    optimizer_needs: OptimizerNeeds = NO_OPTIMIZER


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
    joint = capture(model, args, kwargs, loss=settings.loss)
    lowering = lower(joint)
    nodes = _costed(lowering)
    found = op_costs(nodes, costs=settings.costs, progress=progress)
    graph = lowering.with_costs(found, block=allocation_block(nodes, settings.costs))
    if settings.optimizer is not None:
        needs = settings.optimizer_needs
        graph = dataclasses.replace(graph, constants={**graph.constants, "optimizer": needs.state}, update=needs.transient)
    origin = Origin(
        model=type(model).__qualname__,
        parameters=state_signature(model),
        inputs=input_signature(args, kwargs),
        loss=_loss_description(joint, settings.loss),
        device=_device(model),
        costs=settings.costs,
        optimizer=settings.optimizer,
        versions={"python": platform.python_version(), "torch": str(torch.__version__), "planner": _own_version()},
    )
    return Step(graph=graph, joint=joint, origin=origin, settings=settings)


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
    if loss is not None:
        return f"the caller's {getattr(loss, '__qualname__', type(loss).__name__)}"
    if len(joint.tangent_outputs) == 1:
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
        optimizer_needs=OptimizerNeeds(schedule.graph.constants.get("optimizer", 0), schedule.graph.update),
    )
