"""Where the backward is cut into segments, and which gradients go to autograd at the end of each.

A segment ends where autograd receives gradients, so more cuts release gradients earlier and cost more time. One process cuts
where it pays. Where the order of the gradients is observed (by other ranks, by hooks on parameters), it also keeps eager's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.planner.codegen.gradient_parts import GradientParts, parts_of_gradients
from remat_planner.planner.codegen.observed_order import order_is_observed
from remat_planner.planner.training_state import released_gradients
from remat_planner.schedules import Graph
from remat_planner.tracer.joint import Joint, Tangents

SECONDS_BETWEEN_CUTS = 3e-3
"""Predicted seconds of work in a segment: the 30 microseconds of a cut are then about 1 %."""

CALLS_BETWEEN_CUTS = 400
"""Executions in a segment that justify a cut too: they take much longer than the cut, however small they are."""

GRADIENTS_PER_CUT = 2
"""Gradients handed over at once where their order is observed. Autograd would take a third one in an order of its own."""

Bounds = tuple[int, int]
"""Index of a segment's first execution, and of the one after its last."""


class HandedOver(NamedTuple):
    """What autograd gets at the end of a segment.

    Attributes:
        gradient: index into ``Joint.gradients``.
        instance: the gradient or a part of it; None where it does not arrive.
        tangents: those on which it depends.
    """

    gradient: int
    instance: int | None
    tangents: Tangents


@dataclass(frozen=True)
class Cuts:
    """The executions in segments.

    Attributes:
        bounds: of the forward, then of each segment of the backward.
        handed_over: for each of these, what leaves at its end.
        skipped: executions that do not run, because autograd adds up the parts of a gradient itself, or because no gradient
            needs them.
    """

    bounds: list[Bounds]
    handed_over: list[list[HandedOver]]
    skipped: set[int]


def cut_backward(joint: Joint, graph: Graph, line: StraightLine, live_bytes: npt.NDArray[np.int64]) -> Cuts:
    """Cut ``line``; ``live_bytes`` are the bytes that live during each step of its schedule."""
    parts = parts_of_gradients(joint, line)
    addends = _bytes_of_parts(graph, line, parts)
    released = released_gradients(graph, joint)
    spare_bytes = live_bytes.max(initial=0) - live_bytes
    last_reads = _last_reads_of_owners(joint, line)
    _wait_for_last_reads(line, parts, addends, {k: p for k, p in last_reads.items() if k not in released}, spare_bytes)
    rank = {k: position for position, k in enumerate(joint.arrivals)}
    arrivals = sorted(range(len(parts)), key=lambda k: rank.get(k, len(rank)))
    bounds: list[Bounds] = []
    turns: list[tuple[int, ...]] = []
    if order_is_observed(joint.model):
        bounds, turns = _in_eager_order(line, parts, arrivals)
    if not bounds:
        uncounted = {parts[k].owned_after[-1] for k in released if parts[k].owned_after}
        bounds = _where_it_pays(graph, line, parts, addends, uncounted, spare_bytes)
    return Cuts(
        bounds=bounds,
        handed_over=_handed_over(bounds, turns, parts, arrivals),
        skipped={position for of_gradient in parts for position in of_gradient.skipped},
    )


def _last_reads_of_owners(joint: Joint, line: StraightLine) -> dict[int, int]:
    """For each gradient of a parameter, the last execution that reads the parameter, or a view of it."""
    last_read: dict[int, int] = {}
    for position, execution in enumerate(line.executions):
        for argument in execution.passed_arguments:
            last_read[line.instances[execution.reads[argument]].family] = position
    families = [line.instances[line.sources[node]].family for node in joint.parameter_nodes]
    owners = {k: families[gradient.index] for k, gradient in enumerate(joint.gradients) if gradient.owner == "parameter"}
    return {k: last_read[family] for k, family in owners.items() if family in last_read}


def _wait_for_last_reads(
    line: StraightLine,
    parts: list[GradientParts],
    addends: dict[int, list[tuple[int, int]]],
    last_reads: Mapping[int, int],
    spare_bytes: npt.NDArray[np.int64],
) -> None:
    """Let the last part of each gradient in ``last_reads`` wait for the last execution that reads its parameter.

    A hook may step the optimizer as soon as autograd has the gradient, and what then reads the parameter would read the new
    one. The schedule keeps a whole gradient in any case. A part that waits takes bytes of its own, which leave
    ``spare_bytes``, and moves in ``addends``; where these do not suffice it does not wait, and the runtime refuses a step of
    the optimizer by name.
    """
    for k, position in last_reads.items():
        if not parts[k].owned_after or parts[k].owned_after[-1] >= position:
            continue
        added_at = parts[k].owned_after[-1]
        if len(parts[k].instances) > 1:
            waits = slice(line.executions[added_at].step, line.executions[position].step + 1)
            part, total = max(addends[added_at])
            if part + total > spare_bytes[waits].min():
                continue
            spare_bytes[waits] -= part
            addends[position] = [*addends.pop(added_at), *addends.get(position, ())]
        parts[k] = parts[k].complete_after(position)


def _where_it_pays(
    graph: Graph,
    line: StraightLine,
    parts: Sequence[GradientParts],
    addends: Mapping[int, list[tuple[int, int]]],
    uncounted: Collection[int],
    spare_bytes: npt.NDArray[np.int64],
) -> list[Bounds]:
    """Cut where a gradient is ready and enough work lies behind, or earlier where memory needs it.

    Memory needs it in two cases. The schedule does not count a gradient that is added to an existing one, so autograd gets it
    at once. And a part that waits for its cut must not raise the peak: ``spare_bytes`` is what each step leaves below it.
    """
    seconds = {op.name: op.seconds for op in graph.ops}
    final = {of_gradient.owned_after[-1] for of_gradient in parts if of_gradient.owned_after}
    bounds = [(0, line.forward_end)]
    start, time, waiting, largest_sum = line.forward_end, 0.0, 0, 0
    for position in range(line.forward_end, len(line.executions)):
        execution = line.executions[position]
        if waiting and waiting + largest_sum > spare_bytes[execution.step]:
            bounds.append((start, position))
            start, time, waiting, largest_sum = position, 0.0, 0, 0
        time += seconds.get(execution.node.meta["name"], 0.0)
        for part, addition in addends.get(position, ()):
            waiting, largest_sum = waiting + part, max(largest_sum, addition)
        pays = time >= SECONDS_BETWEEN_CUTS or position + 1 - start >= CALLS_BETWEEN_CUTS
        if position in uncounted or (pays and (position in final or position in addends)):
            bounds.append((start, position + 1))
            start, time, waiting, largest_sum = position + 1, 0.0, 0, 0
    if start < len(line.executions) or len(bounds) == 1:
        bounds.append((start, len(line.executions)))
    if len(bounds) > 2 and not any(bounds[-1][0] <= position < bounds[-1][1] for position in final):
        bounds[-2:] = [(bounds[-2][0], bounds[-1][1])]  # autograd would not call a last segment without a gradient
    return bounds


def _bytes_of_parts(graph: Graph, line: StraightLine, parts: Sequence[GradientParts]) -> dict[int, list[tuple[int, int]]]:
    """By execution, the bytes of each part of a gradient that the plan adds there, and those that the sum allocates.

    Until its cut the part stays allocated, and autograd makes the sum only then.
    """
    addends: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for of_gradient in parts:
        for instance, position in zip(of_gradient.instances[1:], of_gradient.owned_after[1:], strict=True):
            addition = line.executions[position]
            allocated = 0 if addition.in_place else _bytes(graph, line, addition.result)
            addends[position].append((_bytes(graph, line, instance), allocated))
    return addends


def _bytes(graph: Graph, line: StraightLine, instance: int) -> int:
    op = graph.by_name.get(line.instances[instance].node.meta.get("name", ""))
    return 0 if op is None else graph.storages[graph.values[graph.ops[op].writes[0]].storage].bytes


def _in_eager_order(
    line: StraightLine, parts: list[GradientParts], arrivals: Sequence[int]
) -> tuple[list[Bounds], list[tuple[int, ...]]]:
    """Bounds, and for each of them the gradients whose turn comes at its end; both empty where the backward computes none.

    DDP lays out its buckets in the order in which the gradients of its first step arrive, and with more than two ranks another
    layout changes the bits of the sums. So ``arrivals`` is eager's order, and at most two gradients leave at once. The schedule
    keeps a gradient that waits for its turn, also one that is added to an existing one or copied into a bucket. A sum that
    waits goes over in one piece: its entry in ``parts`` is replaced.
    """
    ready: dict[int, list[int]] = defaultdict(list)
    latest = line.forward_end
    for k in arrivals:
        if parts[k].skipped and parts[k].owned_after[-1] < latest:
            whole = GradientParts.whole(line.gradients[k], line, frozenset().union(*parts[k].tangents))
            parts[k] = whole.complete_after(parts[k].owned_after[-1])
        owned_after = parts[k].owned_after
        if owned_after and owned_after[-1] >= line.forward_end:
            latest = max(latest, owned_after[-1])
            ready[latest].append(k)
    if not ready:
        return [], []
    bounds: list[Bounds] = [(0, line.forward_end)]
    turns: list[tuple[int, ...]] = [()]
    start = line.forward_end
    early = {position for of_gradient in parts for position in of_gradient.owned_after[:-1] if position >= line.forward_end}
    for position in sorted(early | ready.keys()):
        gradients = ready.get(position, [])
        for k in range(0, max(len(gradients), 1), GRADIENTS_PER_CUT):
            bounds.append((start, position + 1))
            turns.append(tuple(gradients[k : k + GRADIENTS_PER_CUT]))
            start = position + 1
    bounds[-1] = (bounds[-1][0], len(line.executions))
    return bounds, turns


def _handed_over(
    bounds: Sequence[Bounds],
    turns: Sequence[tuple[int, ...]],
    parts: Sequence[GradientParts],
    arrivals: Sequence[int],
) -> list[list[HandedOver]]:
    """For each segment, what leaves at its end. The last part of a gradient in ``turns`` leaves when its turn comes."""
    segment_of_execution = [s for s, (start, end) in enumerate(bounds) for _ in range(start, end)]
    segment_of_turn = {k: s for s, gradients in enumerate(turns) for k in gradients}
    handed_over: list[list[HandedOver]] = [[] for _ in bounds]
    for k in arrivals:
        last = len(parts[k].instances) - 1
        of_parts = zip(parts[k].instances, parts[k].owned_after, parts[k].tangents, strict=True)
        for number, (instance, position, tangents) in enumerate(of_parts):
            segment = max(segment_of_execution[position] if position >= 0 else 0, 1)
            if number == last:
                segment = segment_of_turn.get(k, segment)
            handed_over[segment].append(HandedOver(k, instance, tangents))
    return handed_over
