"""Capturing again the step that a schedule from a file was made for, and making sure that it is that step.

A file cannot hold the code of the caller's loss. Which outputs it reads and what gradients it sends is in the graph,
though, and that is all the plan depends on: where the loss is not given, stand-ins that read the same outputs are tried,
and one is taken only where the captured step is then the schedule's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.training_state import lets_go_of_gradients, without_gradients
from remat_planner.schedules import Graph, Schedule, StaleScheduleError, differences
from remat_planner.tracer import Joint, capture, lower
from remat_planner.tracer.joint import flatten
from remat_planner.tracer.lower import LOSS

Loss = Callable[[Any], torch.Tensor]
_MOST_STAND_INS = 8  # captures that may be tried
_ROUNDING = 512  # bytes, of the CUDA allocator


def recapture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], schedule: Schedule, loss: Loss | None
) -> Joint:
    """The captured step that ``schedule`` is for.

    Raises:
        StaleScheduleError: the model runs another step on these inputs.
        tracer.CaptureError: the step cannot be captured.
    """
    joint = capture(model, args, kwargs, loss=loss)
    found = _as_planned(schedule, joint)
    if found.fingerprint == schedule.fingerprint:
        return joint
    if loss is None:
        for stand_in in itertools.islice(_stand_ins(schedule.graph, joint), _MOST_STAND_INS):
            again = capture(model, args, kwargs, loss=stand_in)
            if _as_planned(schedule, again).fingerprint == schedule.fingerprint:
                return again
    what = differences(schedule.graph, found)
    hint = ", or pass the loss it was planned with: apply_schedule(..., loss=...)" if loss is None else ""
    raise StaleScheduleError(
        f"the schedule was made for another step than this model now runs: {'; '.join(what)}. Plan again{hint}",
        differences=what,
    )


def _as_planned(schedule: Schedule, joint: Joint) -> Graph:
    graph = lower(joint).graph
    if lets_go_of_gradients(schedule.origin.accumulate, schedule.origin.gradient_buckets):
        graph = without_gradients(graph, joint)
    return _sized_as(schedule.graph, graph)


def _sized_as(planned: Graph, found: Graph) -> Graph:
    """``found`` with the bytes of ``planned``, where the difference is the allocator's or a measurement's and not the step's.

    A capture has the bytes that fake tensors have; costs put those right that a kernel really allocates, and round them up
    to what the device's allocator hands out. Gradients that arrive have one layout or another: their bytes must agree but
    for the rounding. The loss itself is what a kernel made: some (mse_loss) leave it in a buffer as large as their input.
    """
    same_kinds = [s.constant for s in planned.storages] == [s.constant for s in found.storages]
    if not same_kinds or len(planned.values) != len(found.values):
        return found
    written = [found.values[value] for op in found.ops if op.outside for value in op.writes]
    arriving = {value.storage for value in written if value.name != LOSS}
    if any(abs(planned.storages[s].bytes - found.storages[s].bytes) >= _ROUNDING for s in arriving):
        return found
    return replace(found, storages=planned.storages)


def _stand_ins(planned: Graph, joint: Joint) -> Iterator[Loss]:
    """Losses that read the outputs that the planned one reads, and send gradients of the same forms."""
    op = next(op for op in planned.ops if op.outside)
    written = [planned.values[value] for value in op.writes]
    scalar = next((value for value in written if value.name == LOSS), None)
    if scalar is None:
        return  # planned without a loss of the caller's
    tangents = written[: written.index(scalar)]
    makers = {planned.ops[maker].name for value in op.reads if (maker := planned.producer[value]) is not None}
    read = [k for k, leaf in enumerate(joint.outputs) if leaf.node is not None and leaf.node.meta.get("name") in makers]
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
    """Reads the outputs ``read``; the gradients to ``reached`` have a place for every element, or one number for all."""

    def loss(output: Any) -> torch.Tensor:
        leaves = flatten(output)[0]
        parts = [leaves[k] if k in reached else leaves[k].detach() for k in read]
        return torch.stack([(part * part if dense else part).sum().to(dtype) for part in parts]).sum()

    return loss
