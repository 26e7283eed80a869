"""A schedule made better a window at a time: what is held at the ends of a stretch stays, what lies between is solved again.

Inside of a window the program of ``moments`` watches memory wherever the schedule comes near the budget, and has few nodes to
decide on: it is solved in a second where the whole program never is. Windows overlap, and grow where none helps. Pisinger and
Ropke (2010) call this large neighbourhood search, others fix-and-optimize.
"""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.decision import Decision, emit, observe, served_by
from remat_planner.solvers.lazy_moments.master_program import Master
from remat_planner.solvers.problem import Emitter, Problem

# First runs in a window: at first, and by how much that grows; the moves between windows, as a fraction of it.
_LENGTH, _GROWTH, _STRIDE = 40, 1.6, 0.5
# Memory is watched where the schedule comes this near to the budget, at so many first runs at most.
_NEAR, _MOST_MOMENTS = 0.03, 32
# Columns of a program that is worth building; the seconds for it; how often to watch also where its answer overflows.
_MOST_COLUMNS, _SECONDS, _TRIES = 20_000, 4.0, 3
# An answer counts as better by this fraction of the step's time.
_GAIN = 1e-9


def solve_windows(problem: Problem, budget: int, nodes: Sequence[int], deadline: Deadline) -> list[int]:
    """``nodes``, a sequence within ``budget`` bytes, or a cheaper one, once no window up to the whole of it helps."""
    best = list(nodes)
    places = [node for node in range(problem.n) if not problem.auxiliary[node]]
    backward = next((k for k, node in enumerate(places) if problem.outside[node]), 0)
    length = min(_LENGTH, len(places))
    while length < _GROWTH * len(places):
        better = False
        for first in range(max(0, backward - length), len(places) - 1, max(1, int(_STRIDE * length))):
            if deadline.expired:
                return best
            last = min(first + length, len(places) - 1)
            found = _solve(problem, budget, best, places[first], places[last], deadline)
            if found is not None:
                best, better = found, True
        if not better:
            length = max(length + 1, int(_GROWTH * length))
    return best


def _solve(problem: Problem, budget: int, nodes: list[int], first: int, last: int, deadline: Deadline) -> list[int] | None:
    """A cheaper sequence that differs from ``nodes`` between two first runs; None if none is found."""
    worst = _worst(problem, nodes)
    tight = [t for t in range(first + 1, last) if worst.get(t, 0) >= (1 - _NEAR) * budget]
    tight = sorted(sorted(tight, key=worst.__getitem__, reverse=True)[:_MOST_MOMENTS])
    seconds = problem.simulate(nodes).seconds
    margins: dict[int, int] = {}
    moments = [first, *tight, last]
    for _ in range(_TRIES):
        master = Master(problem, budget, moments, margins=margins)
        if not 0 < master.program.columns <= _MOST_COLUMNS or deadline.expired:
            return None
        now = observe(problem, nodes, master.moments)
        master.fix_ends(now)
        limit = min(_SECONDS, deadline.remaining)
        start = None if margins else now
        outcome = master.solve(seconds=limit, gap=_GAIN * problem.seconds, start=start, watch=lambda _: deadline.expired)
        if outcome.values is None:
            return None
        decision = master.decision(outcome.values)
        runs = [_spliced(problem, nodes, decision, by_index=by_index) for by_index in (False, True)]
        found = [(run, problem.simulate(run)) for run in runs]
        fitting = [(s.seconds, run) for run, s in found if s.peak_bytes <= budget and s.seconds < seconds * (1 - _GAIN)]
        if fitting:
            return min(fitting, key=lambda pair: pair[0])[1]
        over = {t: b for t, b in _worst(problem, runs[0]).items() if b > budget and first <= t <= last}
        if not over:
            return None
        fresh = [t for t in over if t not in moments]
        moments = sorted({*moments, *fresh})
        if not fresh:
            margins.update({t: margins.get(t, 0) + over[t] - budget for t in over})
    return None


def _spliced(problem: Problem, nodes: list[int], decision: Decision, *, by_index: bool) -> list[int]:
    """``nodes`` with what ``decision`` says between its first moment and its last one; ``nodes`` where the two do not fit.

    An auxiliary node has no place of its own: either sequence may run it on the other side of an end than the other one does.
    So it is left out where it has run already, and run where it is missing.
    """
    made = emit(problem, decision, by_index=by_index)
    first, last = decision.moments[0], decision.moments[-1]
    emitter = Emitter(problem, by_index=by_index)
    for sequence, start, end in (
        (nodes, 0, nodes.index(first) + 1),
        (made, made.index(first) + 1, made.index(last) + 1),
        (nodes, nodes.index(last) + 1, len(nodes)),
    ):
        elsewhere, before = set(emitter.sequence), set(sequence[:start])
        for node in sequence[start:end]:
            if node in before or node not in elsewhere:
                emitter.run(node)
            before.add(node)
    for node in sorted(set(nodes).difference(emitter.sequence)):
        emitter.run(node)
    fixed = [node for node in emitter.sequence if problem.pinned[node]]
    loss = [place for place, node in enumerate(emitter.sequence) if problem.outside[node]]
    apart = bool(loss) and loss[-1] - loss[0] >= len(loss)
    return nodes if apart or len(fixed) > len(set(fixed)) else emitter.sequence


def _worst(problem: Problem, nodes: Sequence[int]) -> dict[int, int]:
    """The most bytes on behalf of each first run."""
    worst: dict[int, int] = {}
    for node, bytes_ in zip(served_by(problem, nodes), problem.simulate(nodes).bytes.tolist(), strict=True):
        worst[node] = max(worst.get(node, 0), bytes_)
    return worst
