"""Simulated annealing of the execution sequence: for wide graphs and low budgets, where windows and blocks do not help.

A state is any sequence of runs. A move inserts one recomputation before a reader (with the chain of inputs that are not
available there), removes one (with the runs that only it needed), or shifts one. The price is time plus a weight on the bytes
over the budget, which grows until the sequence fits. The method is that of Kirkpatrick et al. (1983); the moves are ours.

Two annealings run side by side, in rounds of growing length: a cold one from the execution order, a warm one from the best
sequence so far, because a bad start can hurt and a good one can help. On wide graphs many short annealings find more than a
long one. The number of moves follows from the graph and the time limit, not from the clock: the same task gives the same
answer unless a slow machine reaches the limit first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers import compiling
from remat_planner.solvers.annealing import kernel
from remat_planner.solvers.annealing.starting_state import mean_positive, starting_state, wiring_of
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

# Moves that stand for an infinite time limit are those of so many seconds.
_SECONDS_WITHOUT_LIMIT = 60.0


@dataclass(frozen=True)
class AnnealingOptions:
    """How the search anneals. The values were found by experiment on the published graphs.

    Attributes:
        streams: annealings side by side. Not the number of processors: the answer must not depend on the machine.
        warm_streams: every second annealing starts from the best sequence so far; otherwise all start from the execution
            order.
        moves: which moves are tried how often.
        most_runs: runs of one node in a sequence; more has never paid, and the tables grow with it.
        cold_starts: temperatures at which cold annealings begin, in turn, in mean op costs. Hot ones find other valleys, cool
            ones go deeper.
        warm_starts: the same for warm annealings: low enough not to lose what the sequence is good for.
        end: temperature at which all end, in mean op costs.
        growth: factor of the price of a byte over the budget, every 200 moves.
        moves_per_second: moves that any machine of the last ten years makes on a small graph; the number of moves is planned
            with it.
        moves_per_look: moves between two looks at the clock. Each look waits for the interpreter, which another thread may
            hold for a while.
        first_round: moves of the first round, and more of them for each node; every round has 2/5 more than the one before.
    """

    streams: int = 2
    warm_streams: bool = True
    moves: kernel.MoveMix = kernel.DEFAULT_MIX
    most_runs: int = 24
    cold_starts: tuple[float, float] = (0.3, 1.0)
    warm_starts: tuple[float, float] = (0.2, 0.4)
    end: float = 0.02
    growth: float = 1.03
    moves_per_second: int = 400_000
    moves_per_look: int = 20_000
    first_round: tuple[int, int] = (50_000, 500)


DEFAULT_OPTIONS = AnnealingOptions()


@dataclass(frozen=True)
class Annealed:
    """The answer of annealing.

    Attributes:
        nodes: the cheapest sequence of nodes within the budget, or the one with the lowest peak if none fits.
        cost: seconds of ``nodes``.
        peak: bytes.
        fits: whether it is within the budget.
    """

    nodes: list[int]
    cost: float
    peak: int
    fits: bool


def anneal(
    problem: Problem,
    budget: int,
    deadline: Deadline,
    *,
    starts: Sequence[Sequence[int]] = (),
    target: float = 0.0,
    seed: int = 0,
    improved: Callable[[Sequence[int]], None] | None = None,
    threads: int | None = None,
    options: AnnealingOptions = DEFAULT_OPTIONS,
    moves: int | None = None,
) -> Annealed:
    """Anneal until the moves planned for the deadline are made, the deadline is over, or ``target`` is reached.

    Args:
        problem: the reduced graph.
        budget: bytes at the peak, constants included.
        deadline: its whole length sets the number of moves; inf stands for a minute's worth.
        starts: sequences of nodes to start warm annealings from, besides the execution order.
        target: seconds; a sequence within the budget that costs no more ends the search (a bound, where one is known).
        seed: of the random generator; the same seed gives the same answer.
        improved: called with each better sequence within the budget.
        threads: how many of the annealings run at the same time; None for all of them.
        options: how to anneal.
        moves: of each stream; None for what the deadline stands for.
    """
    threads = options.streams if threads is None else threads
    search = _Search(problem, budget, seed, options)
    for start in starts:
        search.offer(start)
    announced = search.best.cost if search.best.fits else math.inf
    planned = _planned_moves(problem, deadline, options, threads) if moves is None else moves
    base, per_node = options.first_round
    with ThreadPoolExecutor(threads) as pool:
        for length in _rounds(planned, first=base + per_node * problem.n):
            annealings = search.round(length, share_of_time=length / max(planned, 1), deadline=deadline)
            for look in range(looks := max(1, length // options.moves_per_look)):
                if deadline.expired:
                    break
                list(pool.map(lambda annealing, look=look, looks=looks: annealing.advance(look, looks), annealings))
                for annealing in annealings:
                    search.collect(annealing)
                if search.best.fits and search.best.cost < announced:
                    announced = search.best.cost
                    if improved is not None:
                        improved(search.best.nodes)
                    if announced <= target:
                        return search.best
            for annealing in annealings:
                search.offer(annealing.sequence())
            if deadline.expired:
                break
    return search.best


def in_time(deadline: Deadline) -> bool:
    """Whether annealing can begin before the deadline: its kernel is compiled, or there is time to compile it."""
    return compiling.in_time(deadline, compiled=kernel.ready())


def best_of(problem: Problem, budget: int, sequences: Iterable[Sequence[int]]) -> Annealed:
    """The cheapest of some sequences of nodes within the budget, or the one with the lowest peak."""
    return min((_judged(problem, budget, nodes) for nodes in sequences), key=_rank)


def _judged(problem: Problem, budget: int, nodes: Sequence[int]) -> Annealed:
    simulation = problem.simulate(nodes)
    return Annealed([int(v) for v in nodes], simulation.seconds, simulation.peak_bytes, simulation.peak_bytes <= budget)


def _rank(answer: Annealed) -> tuple[bool, float, float]:
    """Sequences that fit come first, by their cost; then the others, by their peak."""
    return (False, answer.cost, answer.peak) if answer.fits else (True, answer.peak, answer.cost)


def _planned_moves(problem: Problem, deadline: Deadline, options: AnnealingOptions, threads: int) -> int:
    """Moves of each stream: what fits the time limit on a slow machine, fewer on a large graph, where moves take longer."""
    allowance = deadline.seconds if math.isfinite(deadline.seconds) else _SECONDS_WITHOUT_LIMIT
    share = min(1.0, deadline.remaining / allowance) if allowance > 0 else 0.0
    return int(share * allowance * options.moves_per_second * threads / options.streams / (1 + problem.n / 4000))


def _rounds(planned: int, first: int) -> list[int]:
    """Moves of each round: two fifths more than the one before; the last one takes the rest."""
    rounds = []
    length = first
    while planned > 0:
        if planned < 2 * length:
            length = planned
        rounds.append(length)
        planned -= length
        length += 2 * length // 5
    return rounds


class _Search:
    """The best sequence so far, and the starts of new annealings."""

    def __init__(self, problem: Problem, budget: int, seed: int, options: AnnealingOptions) -> None:
        self.problem = problem
        self.budget = budget
        self.options = options
        self.wiring = wiring_of(problem, any_order=options.moves.firsts > 0)
        self.best = _judged(problem, budget, range(problem.n))
        self._rounds = 0
        self._seed = seed * 1_000_003

    def offer(self, nodes: Sequence[int]) -> None:
        """Take a sequence if it is the best so far."""
        self.best = min(self.best, _judged(self.problem, self.budget, nodes), key=_rank)

    def collect(self, annealing: _Annealing) -> None:
        """Take what an annealing has found since the last call."""
        nodes = annealing.news()
        if nodes is not None:
            self.offer(nodes)

    def round(self, moves: int, *, share_of_time: float, deadline: Deadline) -> list[_Annealing]:
        """The annealings of a round."""
        clock = Deadline(deadline.seconds * share_of_time) if math.isfinite(deadline.seconds) else Deadline(math.inf)
        annealings = []
        for stream in range(self.options.streams):
            warm = stream % 2 == 1 and self._has_warm_start()
            nodes = self.best.nodes if warm else range(self.problem.n)
            begin = (self.options.warm_starts if warm else self.options.cold_starts)[self._rounds % 2]
            self._seed += 1
            annealings.append(self._annealing(nodes, moves, begin, clock))
        self._rounds += 1
        return annealings

    def _has_warm_start(self) -> bool:
        """Whether the best sequence recomputes, and its tables have room for more. It need not fit: the lowest peak will do."""
        most = self.options.most_runs - 2
        recomputes = len(self.best.nodes) > self.problem.n and max(np.bincount(self.best.nodes)) < most
        return self.options.warm_streams and bool(recomputes)

    def _annealing(self, nodes: Sequence[int], moves: int, begin: float, clock: Deadline) -> _Annealing:
        problem, most_runs = self.problem, self.options.most_runs
        state = starting_state(problem, self.wiring, nodes, self.budget, seed=self._seed, most_runs=most_runs)
        return _Annealing(self.wiring, state, self.budget - problem.constant_bytes, moves, begin, clock, self.options)


class _Annealing:
    """One annealing, in steps.

    Args:
        wiring: the graph.
        state: where it starts; changed in place.
        budget: bytes, constants not included.
        moves: in all.
        begin: temperature at the start, in mean op costs.
        clock: the time that it may take.
        options: how to anneal.
    """

    def __init__(
        self,
        wiring: kernel.Wiring,
        state: kernel.SequenceState,
        budget: int,
        moves: int,
        begin: float,
        clock: Deadline,
        options: AnnealingOptions,
    ) -> None:
        self._wiring = wiring
        self._state = state
        self._budget = budget
        self._moves = moves
        self._clock = clock
        self._options = options
        scale = mean_positive(wiring.cost)
        self._begin = scale * begin
        self._end = scale * options.end
        self._announced = float(state.measures[kernel.BEST])

    def advance(self, step: int, steps: int) -> None:
        """Make one of ``steps`` steps. On a machine too slow for the plan the clock lowers the temperature in time."""
        late = self._clock.elapsed / self._clock.seconds if self._clock.seconds > 0 else 1.0
        begin, end = (self._temperature(max(place / steps, late)) for place in (step, step + 1))
        moves = max(1, self._moves // steps)
        kernel.anneal(self._wiring, self._state, self._options.moves, moves, begin, end, self._options.growth, self._budget)

    def _temperature(self, progress: float) -> float:
        return self._begin * (self._end / self._begin) ** min(1.0, progress)

    def news(self) -> list[int] | None:
        """The cheapest sequence within the budget, if it is cheaper than at the last call."""
        cost = float(self._state.measures[kernel.BEST])
        if cost >= self._announced:
            return None
        self._announced = cost
        nodes: list[int] = self._state.best[: self._state.counters[kernel.BEST_LENGTH]].tolist()
        return nodes

    def sequence(self) -> list[int]:
        """The sequence as it is now."""
        held = self._state.held[: self._state.counters[kernel.SLOTS]]
        nodes: list[int] = self._state.run[held[held >= 0], kernel.NODE].tolist()
        return nodes
