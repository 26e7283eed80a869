"""Captures the step of a loaded schedule, and makes sure that it is the step of the schedule.

A file cannot hold the code of the caller's loss. But the plan depends only on the outputs that the loss reads and the gradients
that it sends, and both are in the graph. Where the caller gives no loss, stand-ins that read the same outputs are tried. One is
accepted only if the step captured with it is the schedule's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.training_state import rewired
from remat_planner.schedules import Graph, Schedule, StaleScheduleError, differences
from remat_planner.tracer import Joint, capture, lower
from remat_planner.tracer.joint import flatten
from remat_planner.tracer.lower import LOSS, SUM_IN_PLACE, variant_as

Loss = Callable[..., torch.Tensor]

_MOST_STAND_INS = 8
"""Stand-ins that are tried; each costs a capture, which takes seconds."""

_ALLOCATOR_BLOCK = 512
"""Bytes to whose multiples the CUDA allocator rounds."""


class OtherValuesError(StaleScheduleError):
    """The schedule is for inputs of this form, and maybe for others of them."""


def recapture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], schedule: Schedule, loss: Loss | None
) -> Joint:
    """The captured step of ``schedule``.

    Raises:
        OtherValuesError: the model runs another step on these inputs, and values in them decide which.
        StaleScheduleError: the model runs another step on these inputs.
        tracer.CaptureError: the step cannot be captured.
    """
    joint = capture(model, args, kwargs, loss=loss)
    graph = _as_planned(schedule, joint)
    if graph.fingerprint == schedule.fingerprint:
        return joint
    if loss is None:
        for stand_in in stand_ins(schedule.graph, joint):
            candidate = capture(model, args, kwargs, loss=stand_in)
            if is_step_of(schedule, candidate):
                return candidate
    what = differences(schedule.graph, graph)
    if joint.guards.groups:
        raise OtherValuesError("the step depends on values in the inputs, which may be others than planned", differences=what)
    hint = ", or pass the loss it was planned with: apply_schedule(..., loss=...)" if loss is None else ""
    raise StaleScheduleError(
        f"the schedule was made for another step than this model now runs: {'; '.join(what)}. Plan again{hint}",
        differences=what,
    )


def is_step_of(schedule: Schedule, joint: Joint) -> bool:
    """Whether ``joint`` is a capture of the step that ``schedule`` runs."""
    return _as_planned(schedule, joint).fingerprint == schedule.fingerprint


def _as_planned(schedule: Schedule, joint: Joint) -> Graph:
    """The graph of ``joint``, lowered as that of ``schedule`` was."""
    in_place = any(op.pinned == SUM_IN_PLACE for op in schedule.graph.ops)  # a schedule saved before may have none
    joint = variant_as(joint, schedule.graph)
    graph = rewired(lower(joint, sums_in_place=in_place).graph, joint, schedule.origin.training)
    return _sized_as(schedule.graph, graph)


def _sized_as(planned: Graph, captured: Graph) -> Graph:
    """``captured`` with the bytes of ``planned``, where they differ for another reason than the step.

    A capture has the bytes of fake tensors. Costs correct these to what a kernel really allocates, rounded up as the device's
    allocator does. Incoming gradients have one layout or another, so their bytes must agree up to the rounding. The loss is
    excepted: some kernels (mse_loss) leave it in a buffer as large as their input.
    """
    same_kinds = [s.constant for s in planned.storages] == [s.constant for s in captured.storages]
    if not same_kinds or len(planned.values) != len(captured.values):
        return captured
    written = [captured.values[value] for op in captured.ops if op.outside for value in op.writes]
    incoming = {value.storage for value in written if value.name != LOSS}
    if any(abs(planned.storages[s].bytes - captured.storages[s].bytes) >= _ALLOCATOR_BLOCK for s in incoming):
        return captured
    return replace(captured, storages=planned.storages)


def stand_ins(planned: Graph, joint: Joint) -> Iterator[Loss]:
    """Losses that read the same outputs as the planned one, and send gradients of the same shapes and dtypes."""
    return itertools.islice(_stand_ins(planned, joint), _MOST_STAND_INS)


def _stand_ins(planned: Graph, joint: Joint) -> Iterator[Loss]:
    op = next(op for op in planned.ops if op.outside)
    written = [planned.values[value] for value in op.writes]
    scalar = next((value for value in written if value.name == LOSS), None)
    if scalar is None:
        return  # planned without a loss of the caller's
    tangents = written[: written.index(scalar)]
    producers = {planned.ops[i].name for value in op.reads if (i := planned.producer[value]) is not None}
    read = [k for k, leaf in enumerate(joint.outputs) if leaf.node is not None and leaf.node.meta.get("name") in producers]
    wanted = [(tangent.shape, tangent.dtype) for tangent in tangents]
    form = {k: _form(joint, k) for k in read}
    for chosen in itertools.combinations([k for k in read if joint.outputs[k].differentiable], len(wanted)):
        if [form[k] for k in chosen] == wanted:
            for dense in (True, False):
                yield _stand_in(read, set(chosen), dense, getattr(torch, scalar.dtype))


def _form(joint: Joint, leaf: int) -> tuple[tuple[int, ...], str]:
    node = joint.outputs[leaf].node
    assert node is not None
    value = node.meta["val"]
    return tuple(value.shape), str(value.dtype).removeprefix("torch.")


def _stand_in(read: list[int], reached: set[int], dense: bool, dtype: torch.dtype) -> Loss:
    """A loss that reads the outputs ``read`` and sends gradients to ``reached``: dense ones, or one number expanded."""

    def loss(output: Any) -> torch.Tensor:
        leaves = flatten(output)[0]
        parts = [leaves[k] if k in reached else leaves[k].detach() for k in read]
        return torch.stack([(part * part if dense else part).sum().to(dtype) for part in parts]).sum()

    return loss
