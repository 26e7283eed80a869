"""Where memory is short: the step in a form that takes less of it, as far as that helps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from remat_planner.planner.gpu_allocator import AllocatorPeak
from remat_planner.planner.planning.free_savings import is_free
from remat_planner.planner.planning.schedule_cache import leanest_form
from remat_planner.planner.planning.step import LeanerStep, Step, forms, in_chunks, leaner
from remat_planner.schedules import Graph, InvalidScheduleError, Simulation, simulate
from remat_planner.solvers import Deadline, Solution
from remat_planner.solvers.problem import Problem
from remat_planner.tracer.lower import pairs

Steps = tuple[int, ...]
SolveForm = Callable[[Step, tuple[Steps, ...], float], Solution]
"""Solves a form of the step, from these schedules of it, in so many seconds."""

_FEWEST_CHUNKS = 2

_LEAST_GAIN = 0.001
"""As a fraction of the step: what the leaner form has to save, so that it is not taken for noise in its costs."""

_SHARE_OF_FORM = 0.6
"""Share of the remaining time for each form."""

_LEAST_SHARE = 0.1
"""Share of the whole time below which a form is not tried."""


def better_in_leaner_form(
    step: Step,
    solution: Solution,
    limit: int,
    *,
    solved: SolveForm,
    peak_of: Callable[[Step], AllocatorPeak],
    deadline: Deadline,
) -> tuple[Step, Solution]:
    """``step`` and ``solution``, or the same step in a leaner form and its solution, where that takes less time or memory.

    What need not be in two parts within ``limit`` bytes is whole again: two calls take a little longer than one.

    Args:
        step: the step.
        solution: of it, feasible or not.
        limit: bytes.
        solved: solves another form of the step within ``limit``, from these schedules of it, in so many seconds.
        peak_of: gives the peak of a form's schedules.
        deadline: of all forms together; once a schedule is known, a form with little time left is not tried.
    """
    best, found = step, solution
    for lean in forms(step):
        feasible = found.status != "infeasible"
        if feasible and (deadline.remaining < _LEAST_SHARE * deadline.seconds or is_free(step.graph, found.cost)):
            break
        start = in_form(lean, eager_names(best, found.steps or found.minimum_steps))
        other = solved(lean, () if start is None else (start,), deadline.remaining * _SHARE_OF_FORM)
        if _is_better(other, found, step.graph.seconds):
            best, found = _made_whole(step, lean, other, limit, peak_of) if other.status != "infeasible" else (lean, other)
    if isinstance(best, LeanerStep) and best.chunks:
        best, found = _in_better_chunks(step, best, found, solved, deadline)
    if found.status == "infeasible" and (known := leanest_form(step.graph)) is not None:
        lean = leaner(step, **known)
        other = solved(lean, (), deadline.remaining)  # a schedule of it is known, which takes no time
        if _is_better(other, found, step.graph.seconds):
            best, found = lean, other
    return best, found


def _in_better_chunks(
    step: Step, form: LeanerStep, solution: Solution, solved: SolveForm, deadline: Deadline
) -> tuple[Step, Solution]:
    """A ``form`` of ``step`` with more chunks, or fewer, and its solution, as long as that takes less time or memory.

    Chunks change no op's place, so a schedule of one number is one of any other, if it has room.
    """
    best, found = form, solution
    for factor in (2, 0.5):
        while deadline.remaining >= _LEAST_SHARE * deadline.seconds:
            count = int(max(best.chunks.values()) * factor)
            if count < _FEWEST_CHUNKS or (other := in_chunks(step, best, count)).chunks == best.chunks:
                break
            start = found.steps or found.minimum_steps
            other_solution = solved(other, (start,), deadline.remaining * _SHARE_OF_FORM)
            if not _is_better(other_solution, found, step.graph.seconds):
                break
            best, found = other, other_solution
        if best is not form:
            break
    return best, found


def _is_better(other: Solution, found: Solution, seconds: float) -> bool:
    if other.status == "infeasible" or found.status == "infeasible":
        return found.status == "infeasible" and (other.status != "infeasible" or other.minimum < found.minimum)
    return other.cost < found.cost - _LEAST_GAIN * seconds


def eager_names(step: Step, steps: Sequence[int]) -> list[str]:
    """The names of eager's ops in the order in which a schedule of ``step``, in any form, runs them or what replaces them."""
    replaced = step.replaced if isinstance(step, LeanerStep) else {}
    names = (step.graph.actions[i].name for i in steps)
    return [eager for name in names for eager in replaced.get(name, (name,))]


def in_form(lean: LeanerStep, names: Sequence[str]) -> Steps | None:
    """Steps of ``lean`` that run eager's ops of these ``names`` in their order; None where there are none.

    An op in the place of several runs when the first of them would, or before its first reader; it is recomputed when the last
    of them would be. Copies are left out.
    """
    in_place_of = {i: lean.replaced.get(op.name, (op.name,)) for i, op in enumerate(lean.graph.ops)}
    standing_for: dict[str, list[int]] = defaultdict(list)
    for i, replaced in in_place_of.items():
        for name in replaced:
            standing_for[name].append(i)
    stood_for: set[tuple[int, str]] = set()
    ran: set[int] = set()
    sequence: list[int] = []

    def run(i: int) -> None:
        for value in lean.graph.ops[i].reads:
            first = lean.graph.producer[value]
            if first is not None and first not in ran:
                run(first)
        sequence.append(i)
        if i not in ran:
            ran.add(i)
            stood_for.update((i, name) for name in in_place_of[i])

    for name in names:
        for i in standing_for[name]:
            if (i, name) in stood_for:
                stood_for.remove((i, name))
            elif i not in ran or name == in_place_of[i][-1]:
                run(i)
                stood_for.discard((i, name))
    if not sequence:
        return None
    problem = Problem.of(lean.graph)
    nodes = problem.nodes_of(sequence)
    try:
        problem.simulate(nodes)
    except InvalidScheduleError:
        return None
    return problem.expand(nodes)  # views of what runs earlier now are made earlier too


def _made_whole(
    step: Step, parts: LeanerStep, solution: Solution, limit: int, peak_of: Callable[[Step], AllocatorPeak]
) -> tuple[Step, Solution]:
    """``parts`` and ``solution`` with those ops whole whose parts run one after the other and have room beside each other."""
    fitting = _fitting(step, parts, solution.steps, _with_room(parts.graph, solution.steps, limit), limit)
    if fitting is None:
        return parts, solution
    changed, steps, run = fitting
    if peak_of(changed)(steps) > limit:
        return parts, solution
    made_whole = (second for name, (_, second) in pairs(parts.graph).items() if name in changed.whole)
    saved = sum(parts.graph.ops[second].extra_seconds for second in made_whole)
    bound = min(solution.bound - saved, run.seconds)
    gap = (run.seconds - bound) / changed.graph.seconds if changed.graph.seconds else 0.0
    return changed, replace(solution, steps=steps, cost=run.seconds, peak_bytes=run.peak_bytes, bound=bound, gap=gap)


def _fitting(
    step: Step, parts: LeanerStep, steps: Steps, candidates: Collection[str], limit: int
) -> tuple[LeanerStep, Steps, Simulation] | None:
    """``parts`` with the ``candidates`` whole, except for those that need more workspace than there is; None without any."""
    whole = set(candidates)
    while whole:
        changed = leaner(step, whole=whole, chunks=parts.chunks)
        renamed = _renamed(parts.graph, steps, changed.graph, whole)
        if renamed is None:
            return None
        run = simulate(changed.graph, renamed)
        over = {changed.graph.actions[i].name for i, held in zip(renamed, run.bytes, strict=True) if held > limit}
        if not over:
            return changed, renamed, run
        if whole.isdisjoint(over):
            return None
        whole = whole - over
    return None


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
