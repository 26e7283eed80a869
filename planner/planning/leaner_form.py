"""Where memory is short: the step in a form that takes less of it, as far as that helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from remat_planner.planner.gpu_allocator import AllocatorPeak
from remat_planner.planner.planning.step import Step, leaner
from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import Solution
from remat_planner.tracer.lower import pairs

_LEAST_GAIN = 0.001
"""As a fraction of the step: what the leaner form has to save, so that it is not taken for noise in its costs."""


def better_in_leaner_form(
    step: Step,
    solution: Solution,
    limit: int,
    *,
    solved: Callable[[Step], Solution],
    peak_of: Callable[[Step], AllocatorPeak],
) -> tuple[Step, Solution]:
    """``step`` and ``solution``, or the same step in a leaner form and its solution, where that takes less time or memory.

    What need not be in two parts within ``limit`` bytes is whole again: two calls take a little longer than one.

    Args:
        step: the step.
        solution: of it, feasible or not.
        limit: bytes.
        solved: solves another form of the step within ``limit``.
        peak_of: gives the peak of a form's schedules.
    """
    lean = leaner(step)
    other = solved(lean)
    if other.status == "infeasible":
        lower = solution.status == "infeasible" and other.minimum < solution.minimum
        return (lean, other) if lower else (step, solution)
    if solution.status != "infeasible" and other.cost > solution.cost - _LEAST_GAIN * step.graph.seconds:
        return step, solution
    return _made_whole(step, lean, other, limit, peak_of)


def _made_whole(
    step: Step, parts: Step, solution: Solution, limit: int, peak_of: Callable[[Step], AllocatorPeak]
) -> tuple[Step, Solution]:
    """``parts`` and ``solution`` with those ops whole whose parts run one after the other and have room beside each other."""
    whole = _with_room(parts.graph, solution.steps, limit)
    changed = leaner(step, whole)
    steps = _renamed(parts.graph, solution.steps, changed.graph, whole)
    if not whole or steps is None:
        return parts, solution
    run = simulate(changed.graph, steps)
    if max(run.peak_bytes, peak_of(changed)(steps)) > limit:
        return parts, solution
    saved = sum(parts.graph.ops[second].extra_seconds for name, (_, second) in pairs(parts.graph).items() if name in whole)
    bound = min(solution.bound - saved, run.seconds)
    gap = (run.seconds - bound) / changed.graph.seconds if changed.graph.seconds else 0.0
    return changed, replace(solution, steps=steps, cost=run.seconds, peak_bytes=run.peak_bytes, bound=bound, gap=gap)


def _with_room(graph: Graph, steps: Sequence[int], limit: int) -> set[str]:
    """The ops whose parts run one after the other, where the first leaves room for the results of the second."""
    during = simulate(graph, steps).bytes
    position = {step: k for k, step in enumerate(steps)}
    found = set()
    for name, (first, second) in pairs(graph).items():
        start, end = position[first], position[second]
        between = steps[start + 1 : end]
        if start > end or any(step not in graph.free_views for step in between):
            continue
        if steps.count(first) > 1 or steps.count(second) > 1:
            continue
        room = limit - int(during[start])
        if sum(graph.storages[s].bytes for s in graph.allocated[second]) <= room:
            found.add(name)
    return found


def _renamed(graph: Graph, steps: Sequence[int], other: Graph, whole: set[str]) -> tuple[int, ...] | None:
    """``steps`` of ``graph`` as those of ``other``, in which the ops ``whole`` are; None where it lacks a step."""
    of_first = {first: name for name, (first, _) in pairs(graph).items() if name in whole}
    seconds = {second for name, (_, second) in pairs(graph).items() if name in whole}
    names = [of_first.get(step) or graph.actions[step].name for step in steps if step not in seconds]
    if any(name not in other.by_name for name in names):
        return None
    return tuple(other.by_name[name] for name in names)
