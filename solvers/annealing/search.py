"""Simulated annealing of the execution sequence: for wide graphs and low budgets, where windows and blocks do not help.

A state is any sequence of runs. A move puts in one recomputation before a reader (with the chain of what it needs and is not
there), takes one out (with what only it was made for), or shifts one; the price is time plus a weight on the bytes over the
budget, which grows until the sequence fits. Kirkpatrick et al. 1983 for the method; the moves are ours.

Two annealings run side by side, in rounds of growing length: a cold one from the execution order, a warm one from the best
sequence so far, as a bad start can hurt and a good one can help. On wide graphs many short ones find more than a long one. How
many moves are made follows from the graph and the time limit, not from the clock, so the same task gives the same answer
wherever the limit is not reached before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.annealing import kernel
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem

# Runs of one node in a sequence; more has never paid, and the tables grow with it.
_MOST_RUNS = 24
# Temperatures, in mean op costs: where the rounds start in turn, cold and warm, and where they end.
_COLD_STARTS, _WARM_STARTS, _END = (0.3, 1.0), (0.2, 0.4), 0.02
# Moves per second that any machine of the last ten years makes on a small graph; the number of moves is planned with it.
_MOVES_PER_SECOND = 400_000
# Compiling the kernel, once per installation, takes about this many seconds; with less time than that it is left alone.
COMPILING = 15.0
# Annealings side by side. A constant, not the number of processors: the answer must not depend on the machine.
_STREAMS = 2
# Moves between two looks at the clock. Each look waits for the interpreter, which another thread may hold for a while.
_MOVES_PER_STEP = 20_000


@dataclass(frozen=True)
class Annealed:
    """What annealing found.

    Attributes:
        nodes: the cheapest sequence of nodes within the budget, or the one with the lowest peak where none was found.
        cost: seconds of ``nodes``.
        peak: bytes.
        fits: whether it is within the budget.
    """

    nodes: list[int]
    cost: float
    peak: int
    fits: bool


def in_time(deadline: Deadline) -> bool:
    """Whether annealing can begin before the deadline: its kernel is there, or there is time to compile it."""
    return kernel.ready() or deadline.remaining > COMPILING


def nodes_of(problem: Problem, steps: Sequence[int]) -> list[int]:
    """The nodes among op steps: the inverse of ``Problem.expand``."""
    node_of = dict(zip(problem.ops.tolist(), range(problem.n), strict=True))
    return [node_of[step] for step in steps if step in node_of]


def best_of(problem: Problem, budget: int, sequences: Iterable[Sequence[int]]) -> Annealed:
    """The cheapest of some sequences of nodes within the budget, or the one with the lowest peak."""
    return min((_judged(problem, budget, nodes) for nodes in sequences), key=_rank)


def _judged(problem: Problem, budget: int, nodes: Sequence[int]) -> Annealed:
    simulation = problem.simulate(nodes)
    return Annealed([int(v) for v in nodes], simulation.seconds, simulation.peak_bytes, simulation.peak_bytes <= budget)


def _rank(found: Annealed) -> tuple[bool, float, float]:
    """What fits comes first, by its cost; then the rest, by its peak."""
    return (False, found.cost, found.peak) if found.fits else (True, found.peak, found.cost)


def anneal(
    problem: Problem,
    budget: int,
    deadline: Deadline,
    *,
    starts: Sequence[Sequence[int]] = (),
    target: float = 0.0,
    seed: int = 0,
    improved: Callable[[Sequence[int]], None] | None = None,
    threads: int = _STREAMS,
) -> Annealed:
    """Anneal until the moves planned for the deadline are made, the deadline is over, or ``target`` is reached.

    Args:
        problem: the reduced graph.
        budget: bytes at the peak, constants included.
        deadline: its whole length sets the number of moves; inf stands for a minute's worth.
        starts: sequences of nodes to start warm rounds from, beside the execution order.
        target: seconds; a sequence within the budget of no more cost ends the search (a bound, where one is known).
        seed: of the random generator; the same seed gives the same answer.
        improved: called with each better sequence within the budget.
        threads: how many of the annealings side by side run at the same time.
    """
    search = _Search(problem, budget, seed)
    for start in starts:
        search.offer(start)
    announced = search.best.cost if search.best.fits else math.inf
    allowance = deadline.seconds if math.isfinite(deadline.seconds) else 60.0
    share = min(1.0, deadline.remaining / allowance) if allowance > 0 else 0.0
    planned = int(share * allowance * _MOVES_PER_SECOND * threads / _STREAMS / (1 + problem.n / 4000))
    with ThreadPoolExecutor(threads) as pool:
        for length in _rounds(planned, first=50_000 + 500 * problem.n):
            runs = search.round(length, share_of_time=length / max(planned, 1), deadline=deadline)
            for step in range(steps := max(1, length // _MOVES_PER_STEP)):
                if deadline.expired:
                    break
                list(pool.map(lambda run, step=step, steps=steps: run.advance(step, steps), runs))
                for run in runs:
                    search.collect(run)
                if search.best.fits and search.best.cost < announced:
                    announced = search.best.cost
                    if improved is not None:
                        improved(search.best.nodes)
                    if announced <= target:
                        return search.best
            for run in runs:
                search.offer(run.sequence())
            if deadline.expired:
                break
    return search.best


def _rounds(planned: int, first: int) -> list[int]:
    """Moves of each round: two fifths more than the one before, the last one takes what is left."""
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
    """The best sequence so far, and where new annealings start."""

    def __init__(self, problem: Problem, budget: int, seed: int) -> None:
        self.problem = problem
        self.budget = budget
        self.wiring = _wiring(problem)
        self.best = _judged(problem, budget, range(problem.n))
        self._rounds = 0
        self._seed = seed * 1_000_003

    def offer(self, nodes: Sequence[int]) -> None:
        """Take a sequence if it is the best so far."""
        self.best = min(self.best, _judged(self.problem, self.budget, nodes), key=_rank)

    def collect(self, run: _Run) -> None:
        """Take what a run has found since it was last asked."""
        nodes = run.found()
        if nodes is not None:
            self.offer(nodes)

    def round(self, moves: int, *, share_of_time: float, deadline: Deadline) -> list[_Run]:
        """The annealings of a round: a warm one only if there is something to start from."""
        clock = Deadline(deadline.seconds * share_of_time) if math.isfinite(deadline.seconds) else Deadline(math.inf)
        runs = []
        for stream in range(_STREAMS):
            # Where nothing fits so far, the sequence with the lowest peak is a start as good as any.
            known = len(self.best.nodes) > self.problem.n and max(np.bincount(self.best.nodes)) < _MOST_RUNS - 2
            warm = stream % 2 == 1 and known
            nodes = self.best.nodes if warm else range(self.problem.n)
            start = (_WARM_STARTS if warm else _COLD_STARTS)[self._rounds % 2]
            self._seed += 1
            state = _state(self.problem, self.wiring, nodes, self.budget, self._seed)
            runs.append(_Run(self.wiring, state, self.budget - self.problem.constant_bytes, moves, start, clock))
        self._rounds += 1
        return runs


class _Run:
    """One annealing, in steps."""

    def __init__(
        self, wiring: kernel.Wiring, state: kernel.State, budget: int, moves: int, start: float, clock: Deadline
    ) -> None:
        self._wiring = wiring
        self._state = state
        self._budget = budget
        self._moves = moves
        self._clock = clock
        priced = wiring.cost[wiring.cost > 0]
        scale = float(priced.mean()) if len(priced) else 1.0
        self._from = scale * start
        self._to = scale * _END
        self._told = float(state.measures[kernel.BEST])

    def advance(self, step: int, steps: int) -> None:
        """One of ``steps`` steps. On a machine too slow for its plan the clock brings the temperature down in time."""
        late = self._clock.elapsed / self._clock.seconds if self._clock.seconds > 0 else 1.0
        begin, end = (self._temperature(max(place / steps, late)) for place in (step, step + 1))
        kernel.anneal(self._wiring, self._state, max(1, self._moves // steps), begin, end, 1.03, self._budget)

    def _temperature(self, progress: float) -> float:
        return self._from * (self._to / self._from) ** min(1.0, progress)

    def found(self) -> list[int] | None:
        """The cheapest sequence within the budget, if it is cheaper than when last asked."""
        cost = float(self._state.measures[kernel.BEST])
        if cost >= self._told:
            return None
        self._told = cost
        nodes: list[int] = self._state.best[: self._state.counters[kernel.BEST_LENGTH]].tolist()
        return nodes

    def sequence(self) -> list[int]:
        """The sequence as it is now."""
        held = self._state.held[: self._state.counters[kernel.SLOTS]]
        nodes: list[int] = self._state.run[held[held >= 0], kernel.NODE].tolist()
        return nodes


def _wiring(problem: Problem) -> kernel.Wiring:
    n, m = problem.n, problem.m
    fixed = problem.pinned | problem.outside
    # An in-place result must run again whenever its base does: both stay as they are.
    in_place = np.flatnonzero(problem.in_place)
    fixed[problem.producer[in_place]] = True
    fixed[problem.producer[problem.base[in_place]]] = True
    made = np.zeros(n, dtype=np.int64)
    np.add.at(made, problem.producer, problem.bytes)
    # What is written in place and lasts makes the memory last that it is on.
    lasting = problem.lasting.copy()
    lasting[problem.base[problem.lasting]] = True
    # Where the first instance of a result lives from is not for us to change.
    lasts = np.zeros(n, dtype=np.bool_)
    lasts[problem.producer[lasting]] = True
    late = problem.auxiliary & ~fixed & ~lasts
    reads, writes = len(problem.read_items), len(problem.write_items)
    by_item = np.argsort(problem.read_items, kind="stable")
    readers = np.repeat(np.arange(n), np.diff(problem.read_ptr))[by_item]
    read_ptr = problem.read_ptr
    write_ptr = problem.write_ptr + reads
    reader_ptr = np.concatenate(([0], np.cumsum(np.bincount(problem.read_items, minlength=m)))) + reads + writes
    nodes = (problem.workspace, problem.replay, made, ~fixed, late, read_ptr[:-1], read_ptr[1:], write_ptr[:-1], write_ptr[1:])
    items = (problem.bytes, lasting, problem.producer, reader_ptr[:-1], reader_ptr[1:])
    cost = problem.cost / problem.seconds if problem.seconds > 0 else problem.cost
    return kernel.Wiring(
        # Free ops get a price far below all others, so that they are not recomputed for nothing.
        cost=cost + 1e-6 * float(cost.mean() or 1.0),
        nodes=_table(nodes),
        items=_table(items),
        links=np.concatenate((problem.read_items, problem.write_items, readers)).astype(np.int64),
    )


def _table(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.stack([column.astype(np.int64) for column in columns], axis=1))


def _state(problem: Problem, wiring: kernel.Wiring, nodes: Sequence[int], budget: int, seed: int) -> kernel.State:
    n, length = problem.n, len(nodes)
    most = length + max(4 * n, 2000) + 200
    limit = budget - problem.constant_bytes
    live = problem.simulate(nodes).bytes - problem.constant_bytes
    over = int(np.maximum(live - limit, 0).sum())
    state = kernel.State(
        held=np.full(2 * most + 64, -1, dtype=np.int64),
        live=np.full(2 * most + 64, kernel.EMPTY, dtype=np.int64),
        runs=np.zeros((n, _MOST_RUNS + 2), dtype=np.int64),
        run=np.full((most, 3), -1, dtype=np.int64),
        free=np.zeros(most, dtype=np.int64),
        removable=np.zeros(most, dtype=np.int64),
        counters=np.zeros(8, dtype=np.int64),
        measures=np.zeros(3),
        random=np.array([seed], dtype=np.uint64),
        best=np.zeros(most, dtype=np.int64),
    )
    state.held[:length] = np.arange(length)
    state.live[:length] = live
    state.run[:length, kernel.NODE] = nodes
    state.free[: most - length] = np.arange(most - 1, length - 1, -1)
    removable = 0
    for e, v in enumerate(nodes):
        # The last run stays, so that every other one has a run after it.
        if (state.runs[v, 0] or wiring.nodes[v, kernel.LATE]) and e + 1 < length:
            state.run[e, kernel.INDEX] = removable
            state.removable[removable] = e
            removable += 1
        state.runs[v, 0] += 1
        state.runs[v, state.runs[v, 0]] = e
    outside = np.flatnonzero(problem.outside)
    counters = state.counters
    counters[kernel.BARRIER_FROM], counters[kernel.BARRIER_TO] = (outside[0], outside[-1]) if len(outside) else (-1, -1)
    counters[kernel.FREE] = most - length
    counters[kernel.REMOVABLE] = removable
    counters[kernel.RUNS] = counters[kernel.SLOTS] = length
    counters[kernel.OVER] = over
    priced = wiring.cost[wiring.cost > 0]
    filled = problem.bytes[problem.bytes > 0]
    state.measures[kernel.COST] = float(wiring.cost[np.asarray(nodes)].sum() - wiring.cost.sum())
    state.measures[kernel.BEST] = state.measures[kernel.COST] if over == 0 else math.inf
    # A first price: five mean items over the budget cost as much as a mean op. It adapts within a few thousand moves.
    state.measures[kernel.WEIGHT] = float(priced.mean() if len(priced) else 1.0) / (
        5.0 * float(filled.mean() if len(filled) else 1.0)
    )
    kernel.spread(state)
    if over == 0:
        kernel.store(state)
    return state
