"""Improve a schedule window by window: what is held at the ends of a window stays, what lies between is solved again.

Inside a window the program watches memory wherever the schedule comes near the budget, and has few nodes to decide on: it is
solved in a second where the whole program never is. Windows overlap, and grow where none helps. Pisinger and Ropke (2010) call
this large neighbourhood search, others fix-and-optimize.
"""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.decision import Decision, emit, observe, served_by
from remat_planner.solvers.lazy_moments.master_program import MasterProgram
from remat_planner.solvers.lazy_moments.options import DEFAULT_WINDOWS, WindowsOptions
from remat_planner.solvers.problem import Problem, SequenceBuilder


def solve_windows(
    problem: Problem, budget: int, nodes: Sequence[int], deadline: Deadline, options: WindowsOptions = DEFAULT_WINDOWS
) -> list[int]:
    """``nodes``, a sequence within ``budget`` bytes, or a cheaper one, until no window up to the whole step helps."""
    best = list(nodes)
    places = [node for node in range(problem.n) if not problem.auxiliary[node]]
    backward = next((k for k, node in enumerate(places) if problem.outside[node]), 0)
    length = min(options.length, len(places))
    while length < options.growth * len(places):
        better = False
        stride = int(options.stride * length)
        for first in range(max(0, backward - length), len(places) - 1, max(1, stride)):
            if deadline.expired:
                return best
            last = min(first + length, len(places) - 1)
            improved = _solve(problem, budget, best, places[first], places[last], deadline, options)
            if improved is not None:
                best, better = improved, True
        if not better:
            length = max(length + 1, int(options.growth * length))
    return best


def _solve(
    problem: Problem, budget: int, nodes: list[int], first: int, last: int, deadline: Deadline, options: WindowsOptions
) -> list[int] | None:
    """A cheaper sequence that differs from ``nodes`` between two first runs; None if none is found."""
    worst = _most_bytes(problem, nodes)
    tight = [t for t in range(first + 1, last) if worst.get(t, 0) >= (1 - options.near) * budget]
    moments = sorted({first, last, *sorted(tight, key=worst.__getitem__, reverse=True)[: options.most_moments]})
    wanted = problem.simulate(nodes).seconds * (1 - options.gain)
    gap = options.gain * problem.seconds
    margins: dict[int, int] = {}
    for _ in range(options.tries):
        master = MasterProgram(problem, budget, moments, margins=margins)
        if not 0 < master.program.columns <= options.most_columns or deadline.expired:
            return None
        now = observe(problem, nodes, master.moments)
        master.fix_ends(now)
        limit = min(options.seconds, deadline.remaining)
        start = None if margins else now
        outcome = master.solve(seconds=limit, gap=gap, start=start, watch=lambda _: deadline.expired)
        if outcome.values is None:
            return None
        decision = master.decision(outcome.values)
        sequences = [_spliced(problem, nodes, decision, by_index=by_index) for by_index in (False, True)]
        simulated = [(problem.simulate(sequence), sequence) for sequence in sequences]
        fitting = [pair for pair in simulated if pair[0].peak_bytes <= budget and pair[0].seconds < wanted]
        if fitting:
            return min(fitting, key=lambda pair: pair[0].seconds)[1]
        over = {t: b for t, b in _most_bytes(problem, sequences[0]).items() if b > budget and first <= t <= last}
        if not over:
            return None
        fresh = [t for t in over if t not in moments]
        moments = sorted({*moments, *fresh})
        if not fresh:
            margins.update({t: margins.get(t, 0) + over[t] - budget for t in over})
    return None


def _spliced(problem: Problem, nodes: list[int], decision: Decision, *, by_index: bool) -> list[int]:
    """``nodes``, with ``decision`` between its first and last moment; ``nodes`` itself where the two do not fit together.

    An auxiliary node has no place of its own: one sequence may run it before an end of the window, the other after it. So it is
    left out where it has already run, and run where it is missing.
    """
    decided = emit(problem, decision, by_index=by_index)
    first, last = decision.moments[0], decision.moments[-1]
    builder = SequenceBuilder(problem, by_index=by_index)
    for sequence, start, end in (
        (nodes, 0, nodes.index(first) + 1),
        (decided, decided.index(first) + 1, decided.index(last) + 1),
        (nodes, nodes.index(last) + 1, len(nodes)),
    ):
        elsewhere, before = set(builder.sequence), set(sequence[:start])
        for node in sequence[start:end]:
            if node in before or node not in elsewhere:
                builder.run(node)
            before.add(node)
    for node in sorted(set(nodes).difference(builder.sequence)):
        builder.run(node)
    fixed = [node for node in builder.sequence if problem.pinned[node]]
    loss = [place for place, node in enumerate(builder.sequence) if problem.outside[node]]
    apart = bool(loss) and loss[-1] - loss[0] >= len(loss)
    return nodes if apart or len(fixed) > len(set(fixed)) else builder.sequence


def _most_bytes(problem: Problem, nodes: Sequence[int]) -> dict[int, int]:
    """The most bytes during each first run and the recomputations for it."""
    worst: dict[int, int] = {}
    for node, bytes_ in zip(served_by(problem, nodes), problem.simulate(nodes).bytes.tolist(), strict=True):
        worst[node] = max(worst.get(node, 0), bytes_)
    return worst
