"""Whether the steps after the first one, which find the state that it left, can be captured and equal each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from remat_planner.tracer.errors import CaptureError
from remat_planner.tracer.joint import map_tensors
from remat_planner.tracer.python_state import Change, PythonReads, Roots, is_read_number
from remat_planner.tracer.record.opaque_functions import OpaqueFunctions
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.record_step import record
from remat_planner.tracer.record.recording import CapturedCall, Recording
from remat_planner.tracer.record.step_to_step import effects_from_step_to_step
from remat_planner.tracer.torch_private import FakeTensorMode


def others_can_follow(call: CapturedCall, first: Recording, mode: FakeTensorMode) -> bool:
    """Record two more steps from the state that ``first`` left, with tensors of its own in the places of those left there.

    These have no history, as where the training loop detaches them.
    """
    fakes: list[torch.Tensor] = []

    def own(tensor: Any) -> Any:
        if is_read_number(tensor):
            return tensor
        with mode:
            fakes.append(torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device))
        return fakes[-1]

    changes = [change for change in first.changes if change.holder.place.kind != "arguments"]
    functions = OpaqueFunctions(call, mode)
    watched = {id(holder.target) for holder in PythonReads.of_code(first.executed).holders(call.model)}
    try:
        with _left_in_place(call, changes, own) as changed:
            if not all(id(thing) in watched for thing in changed):
                return False  # a call could not tell which of the steps it is
            outside = OutsideTensors(call, frozenset(map(id, fakes)))

            def recorded_twice(call: CapturedCall) -> None:
                second = functions.recorded(lambda: record(call, mode, None, outside))
                effects_from_step_to_step(
                    second, lambda: functions.recorded(lambda: record(call, mode, None, outside, second.changes))
                )

            outside.recorded(recorded_twice)
    except (CaptureError, LookupError):
        return False
    return True


@contextmanager
def _left_in_place(
    call: CapturedCall, changes: list[Change], own: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[list[Any]]:
    """Make Python state inside what ``changes`` left, with ``own`` applied to the tensors. Yields the objects that change."""
    roots = Roots.of(call.model)
    holders = [copy.copy(change.holder) for change in changes]
    for holder in holders:  # the recording may have had a list of its own there
        holder.target = holder.place.find(roots)
    before = [holder.entries() for holder in holders]
    try:
        for holder, change in zip(holders, changes, strict=True):
            now = holder.entries()
            left = {key: value for key, value in now.items() if key in change.after}
            left |= {key: map_tensors(own, change.after[key]) for key in change.keys if key in change.after}
            holder.put_back(left)
        yield [holder.target for holder in holders]
    finally:
        for holder, entries in zip(holders, before, strict=True):
            holder.put_back(entries)
