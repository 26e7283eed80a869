"""Schedules of a chain of unequal stages that recompute and offload: the dynamic program of pofo, on labels.

Beaumont, Eyraud-Dubois and Shilova, "Efficient Combination of Rematerialization and Offloading for Training DNNs" (NeurIPS
2021). The forward is a series of segments: one stage that saves for its backward (with an option, as in ``persistent_dp``), or
a run of stages that save nothing and are recomputed in the backward, by the best persistent schedule for the memory left.
What enters a segment (the input of its first stage, with what the stage before it saved) stays, or is offloaded while the
forward goes on and prefetched before the backward of the segment. The model is that of the paper: one direction of the link
copies in the forward, the other in the backward, first in first out, and all copies out end before the first copy in begins.

Going through the segments once tells everything, because the backward in reverse looks like the forward: what is prefetched
early fills memory until it is "sent back". So a *label* before a segment has five numbers: the seconds of all segments up to
there, the bytes that stay, those that are still leaving when the forward comes here, those that have come back when the
backward is done up to here, and those in the pool. Where memory is short, a segment waits until enough has left. The paper
rounds all to slots; here labels are exact, and a label goes if another is no worse in every number. (Waiting exchanges seconds
for bytes, so of two ways through a segment the one with fewer seconds is never worse.) Above ``width`` labels the best of each
level of memory remain, and the answer may not be the optimum of the model.

Numbers in, numbers out: no graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.chain.persistent_dp import Floats, Ints, Stages
from remat_planner.solvers.compiling import entrance, inner, is_compiled

# Levels of memory among which labels are spread where there are too many.
_LEVELS = 32


class Link(NamedTuple):
    """The pool and its link.

    Attributes:
        outgoing, incoming: bytes per second.
        budget: bytes of the pool; inf where it has room for whatever may be offloaded.
    """

    outgoing: float
    incoming: float
    budget: float


class Segment(NamedTuple):
    """A part of the forward.

    Attributes:
        begin, end: the stages ``begin`` to ``end - 1``.
        option: of the one stage that saves; -1 for stages that run without saving.
        offloaded: whether what enters the segment is offloaded.
        slots: for a run without saving, the memory of its schedule in the backward.
    """

    begin: int
    end: int
    option: int
    offloaded: bool
    slots: int


class _Labels(NamedTuple):
    """Labels, in order of their places: the segments of each end before the stage ``place``; ``option`` is the last one's.

    ``began``, ``offloaded`` and ``slots`` describe the last segment as in ``Segment``; ``parent`` is the label before it.
    """

    place: Ints
    option: Ints
    seconds: Floats
    held: Floats
    leaving: Floats
    back: Floats
    stored: Floats
    parent: Ints
    offloaded: NDArray[np.bool_]
    slots: Ints


def offloading_segments(
    stages: Stages,
    backward: Floats,
    persistent: NDArray[np.float32],
    unit: int,
    room: int,
    link: Link,
    may_offload: NDArray[np.bool_],
    *,
    width: int = 256,
) -> tuple[list[Segment], float]:
    """The best series of segments within ``room`` bytes beside the input of the chain, and its seconds; none where none fits.

    Args:
        stages: the chain, memory in bytes.
        backward: float64[n], seconds of the backward of each stage, without what options add.
        persistent: the table of ``persistent_dp`` for the same chain in slots of ``unit`` bytes, rounded up.
        unit: bytes of a slot.
        room: bytes.
        link: the link that copies.
        may_offload: bool[n, k + 1]: whether what enters a stage may be offloaded: its input, if the stage before it ran without
            saving (at 0), or with what that saved by option o (at o + 1).
        width: labels of one kind before a stage, at most.
    """
    arrays = Stages(*(np.ascontiguousarray(array) for array in stages))  # type: ignore[arg-type]
    labels: _Labels = _labels(  # type: ignore[no-untyped-call]
        arrays, backward, persistent, unit, float(room), Link(*map(float, link)), may_offload, width
    )
    last = np.flatnonzero(labels.place == len(stages.inputs))
    if not len(last):
        return [], float("inf")
    total = labels.seconds + labels.leaving / link.outgoing + labels.back / link.incoming
    label = int(last[np.argmin(total[last])])
    seconds = float(total[label])
    series: list[Segment] = []
    while (parent := int(labels.parent[label])) >= 0:
        begin, end = int(labels.place[parent]), int(labels.place[label])
        option, offloaded = int(labels.option[label]), bool(labels.offloaded[label])
        series.append(Segment(begin, end, option, offloaded, int(labels.slots[label])))
        label = parent
    return series[::-1], seconds


def offloading_ready() -> bool:
    """Whether this runs at once, without being compiled."""
    return is_compiled(_labels, [Path(__file__)])


@inner
def _with_waits(persistent, slot_seconds):  # type: ignore[no-untyped-def]
    """For each entry of the table the slots that take the least seconds, if those beyond the entry's have to be waited for."""
    n, _, count = persistent.shape
    waited = persistent.copy()
    chosen = np.empty(persistent.shape, np.int16)
    for a in range(n):
        for b in range(n):
            chosen[a, b, count - 1] = count - 1
            for m in range(count - 2, -1, -1):
                longer = waited[a, b, m + 1] + np.float32(slot_seconds)
                if longer < waited[a, b, m]:
                    waited[a, b, m], chosen[a, b, m] = longer, chosen[a, b, m + 1]
                else:
                    chosen[a, b, m] = m
    return chosen


@entrance
def _labels(stages, backward, persistent, unit, room, link, may_offload, width):  # type: ignore[no-untyped-def]
    """All labels that may matter; see ``_Labels``. The first one is the start."""
    n, options = stages.saved.shape
    chosen = _with_waits(persistent, unit / link.incoming)
    runs = np.full((n, n), np.inf)  # bytes at the peak of running stages a to b without saving
    eased = np.full((n, n), -np.inf)  # the same, less what leaves during the run before the peak
    for a in range(n):
        needs, left, seconds = 0.0, -np.inf, 0.0
        for b in range(a, n - 1):
            now = stages.forward_needs[1, b] + (stages.inputs[b] if b > a else 0)
            needs, left = max(needs, now), max(left, now - link.outgoing * seconds)
            seconds += stages.forward[1, b]
            runs[a, b], eased[a, b] = needs, left
    forward_until, backward_until = np.zeros(n + 1), np.zeros(n + 1)
    forward_until[1:], backward_until[1:] = np.cumsum(stages.forward[1]), np.cumsum(backward)
    most = 1 + n * (options + 1) * max(width, _LEVELS)
    place, option, parent = np.zeros(most, np.int64), np.full(most, -1, np.int64), np.full(most, -1, np.int64)
    numbers = np.zeros((most, 5))  # seconds, held, leaving, back, stored
    offloaded, slots = np.zeros(most, np.bool_), np.zeros(most, np.int64)
    begin = np.zeros(n + 2, np.int64)  # the labels of each place
    begin[1] = count = 1
    for here in range(1, n + 1):
        begin[here] = count
        for kind in range(-1, options):
            if (kind < 0 and here == n) or (kind >= 0 and not np.isfinite(stages.save[1, here - 1, kind])):
                continue
            first = begin[here - 1] if kind >= 0 else 0
            found = np.empty((2 * (begin[here] - first), 5))
            origin, choice = np.empty(len(found), np.int64), np.empty(len(found), np.int64)
            candidates = 0
            for label in range(first, begin[here]):
                stage = place[label]
                entering = 0.0
                if stage:
                    entering = float(stages.inputs[stage] if option[label] < 0 else stages.saved[stage - 1, option[label]])
                seconds, held, leaving, back, stored = numbers[label]
                left = room - held - entering
                if kind >= 0:
                    needs, needs_back = float(stages.save_needs[1, stage, kind]), float(stages.backward_needs[stage, kind])
                    if needs > left or needs_back > left:
                        continue
                    there = stages.forward[1, stage] + max(0.0, leaving + needs - left) / link.outgoing
                    again = backward[stage] + stages.save[1, stage, kind] - stages.forward[1, stage]
                    again += max(0.0, back + needs_back - left) / link.incoming
                    used = 0
                else:
                    if runs[stage, here - 1] > left:
                        continue
                    there = forward_until[here] - forward_until[stage]
                    there += max(0.0, leaving + eased[stage, here - 1] - left) / link.outgoing
                    used, extra = _recomputation(chosen, persistent, unit, stage, here - 1, left, back, link.incoming)
                    if not np.isfinite(extra):
                        continue
                    again = backward_until[here] - backward_until[stage] + extra
                for leaves in range(2 if entering and may_offload[stage, option[label] + 1] else 1):
                    if leaves and stored + entering > link.budget:
                        continue
                    gone, come = link.outgoing * there, link.incoming * again
                    row = found[candidates]
                    row[0] = seconds + there + again
                    row[1] = held if leaves else held + entering
                    row[2] = max(0.0, leaving + (entering if leaves else 0.0) - gone)
                    row[3] = max(0.0, back - come) + (entering if leaves else 0.0)
                    row[4] = stored + (entering if leaves else 0.0)
                    origin[candidates], choice[candidates] = label, 2 * used + leaves
                    candidates += 1
            for k in _best(found[:candidates], room, link, width):
                place[count], option[count], parent[count] = here, kind, origin[k]
                numbers[count] = found[k]
                offloaded[count], slots[count] = choice[k] % 2 == 1, choice[k] // 2
                count += 1
        begin[here + 1] = count
    return _Labels(
        place[:count],
        option[:count],
        numbers[:count, 0].copy(),
        numbers[:count, 1].copy(),
        numbers[:count, 2].copy(),
        numbers[:count, 3].copy(),
        numbers[:count, 4].copy(),
        parent[:count],
        offloaded[:count],
        slots[:count],
    )


@inner
def _recomputation(chosen, persistent, unit, a, b, left, back, rate):  # type: ignore[no-untyped-def]
    """Slots and seconds to recompute stages a to b in ``left`` bytes, of which ``back`` are taken until they are waited for."""
    most = min(int(left // unit), persistent.shape[2] - 1)
    least = min(max(int((left - back) // unit), 0), most)
    if not np.isfinite(persistent[a, b, most]):
        return 0, np.inf
    if chosen[a, b, least] <= most:
        first, last = int(chosen[a, b, least]), int(chosen[a, b, least])
    else:
        first, last = least, most
    used, seconds = 0, np.inf
    for m in range(first, last + 1):
        value = persistent[a, b, m] + max(0.0, back + m * unit - left) / rate
        if value < seconds:
            used, seconds = m, value
    return used, seconds


@inner
def _best(found, room, link, width):  # type: ignore[no-untyped-def]
    """The candidates that no other one dominates, the best of each level of memory where they are more than ``width``."""
    total = found[:, 0] + found[:, 2] / link.outgoing + found[:, 3] / link.incoming
    order = np.argsort(total, kind="mergesort")
    kept = np.empty(min(len(order), max(width, _LEVELS)), np.int64)
    taken = np.zeros(_LEVELS + 1, np.int64)
    count = 0
    for k in order:
        level = int(_LEVELS * found[k, 1] / max(room, 1.0))
        if count == len(kept) or (count >= width // 2 and taken[level] >= max(1, width // (2 * _LEVELS))):
            continue
        dominated = False
        for j in kept[:count]:
            wait = max(0.0, found[j, 2] - found[k, 2]) / link.outgoing + max(0.0, found[j, 3] - found[k, 3]) / link.incoming
            less = found[j, 1] <= found[k, 1] and (link.budget == np.inf or found[j, 4] <= found[k, 4])
            if less and found[j, 0] + wait <= found[k, 0]:
                dominated = True
                break
        if not dominated:
            kept[count] = k
            taken[level] += 1
            count += 1
    return kept[:count]
