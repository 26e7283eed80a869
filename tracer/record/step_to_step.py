"""Whether the next forward equals the recorded one, and what both leave behind in Python state.

The forward is recorded a second time, from the state that the first recording left. A captured step would lose what differs
then: other operators (a flag, a tensor of an earlier step), or other values left behind (a counter). A change that both make
can be repeated by each planned call.

A step may differ from those after it, which equal each other: the first one of a sequence finds no state and leaves some. It is
captured for the state that it found, which each call compares, and the others are captured once they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from remat_planner.tracer.errors import CaptureError, PythonStateError
from remat_planner.tracer.record.effects import RecordedEffects, effects_of
from remat_planner.tracer.record.filled_once import fixed_tensors
from remat_planner.tracer.record.graph_equality import starts_with
from remat_planner.tracer.record.recording import Recording
from remat_planner.tracer.refusals import forward_varies_error, refuse_python_state


def effects_from_step_to_step(
    first: Recording, record_again: Callable[[], Recording] | None, others_can_follow: Callable[[], bool] = lambda: False
) -> RecordedEffects:
    """What each forward leaves behind.

    Args:
        first: the recorded step.
        record_again: records the forward once more, from the state that the first one left; None where that is known to be
            the same, and no state was changed.
        others_can_follow: whether the steps after the first one can be captured by themselves, and equal each other.

    Raises:
        PythonStateError: a change of Python state matters to the next step, or cannot be repeated.
        DataDependentError: the second forward runs other operators, although the first one changed nothing.
    """
    torch.clear_autocast_cache()  # the first recording's casts are in it, and the second one would not cast again
    if record_again is None:
        return effects_of(first.changes, argument_objects=first.argument_objects)
    try:
        return _repeated_effects(first, record_again)
    except PythonStateError:
        if not first.changes or not others_can_follow():
            raise
    effects = effects_of(first.changes, argument_objects=first.argument_objects)
    refuse_python_state(list(effects.lost))
    return replace(effects, written={})


def _repeated_effects(first: Recording, record_again: Callable[[], Recording]) -> RecordedEffects:
    try:
        second = record_again()
    except CaptureError:
        if not first.changes:
            raise
        refuse_python_state(_names(first))  # the next step fails on what was left behind
        raise
    effects = effects_of(first.changes, second.changes, first.argument_objects, fixed_tensors(first))
    held_a_tensor = effects.reassigned.values()  # where the forward reads that tensor, the graph is refused later
    if not starts_with(first.module.graph, second.module.graph):
        if not first.changes:
            raise forward_varies_error()
        changed = [name for name in _names(first) if name not in effects.filled]
        refuse_python_state([name for name in dict.fromkeys([*changed, *_names(second)]) if name not in held_a_tensor])
    refuse_python_state([name for name in effects.lost if name not in held_a_tensor])
    return effects


def _names(recording: Recording) -> list[str]:
    return [name for change in recording.changes for name in change.names]
