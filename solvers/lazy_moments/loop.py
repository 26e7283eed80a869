"""Lazy moments: an exact method for a given order of first runs, and a bound for every budget.

Loop: solve the program that watches memory at a few moments (``moments``), build the schedule it describes (``emit``), simulate
it. Within the budget: done, and the program's bound proves how good it is. Else watch memory also where it overflowed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules import Simulation
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Reporter
from remat_planner.solvers.lazy_moments.decision import Decision, emit, observe, served_by
from remat_planner.solvers.lazy_moments.master_program import Master, closure_bound
from remat_planner.solvers.lazy_moments.tiny_graph_search import search, searchable
from remat_planner.solvers.milp import TOLERANCE
from remat_planner.solvers.problem import Problem

# Precision asked of the program, as a fraction of the step's time: rough while the moments are still moving, then fine.
_ROUGH, _FINE = 2e-4, 2e-7
# Moments added at a time, and the most columns of a program that is worth solving.
_MOMENTS_AT_A_TIME = 4
_MOST_COLUMNS = 60_000
# While moments are still being added, a program gets this share of the time that is left, but this many seconds at least.
_STEP_SHARE, _LEAST_STEP = 0.6, 2.0
# An overflow of at most this fraction of the budget is slight: margins may do away with it, in so many tries. That is not worth
# it where the best run is this near to the bound already, as a fraction of the step's time. Only then does it help a program.
_SLIGHT, _TIGHTENINGS, _NEAR = 0.05, 3, 2e-3
# Where the best run is farther than this from the bound, as a fraction of the step's time, several programs that are cut short
# find better schedules than one that is not.
_FAR = 0.01
# Where the best run comes this close to the budget, as a fraction of it, memory is worth watching.
_TIGHT = 0.01
# A bound that a running program has raised by less than this fraction of the step's time is not worth telling. A schedule that
# is this near to its bound gets as much time again as it took to find, but these seconds at least, and no more.
_TOLD, _CLOSE, _LEAST_CLOSING = 1e-7, 5e-6, 2.0


@dataclass(frozen=True)
class Run:
    """A sequence of nodes and its simulation."""

    nodes: list[int]
    simulation: Simulation


class LazyMoments:
    """The loop, one step at a time, so that its caller may stop or share the time.

    Args:
        problem: the reduced graph.
        budget: bytes.
        reporter: whom to tell.
        found_elsewhere: the runs that others have found since it was called last.
        enough: seconds of the step: whether a schedule takes at most that is all that is asked; None asks for the best.

    Attributes:
        best: the cheapest run within the budget, or None.
        lowest: the run with the lowest peak.
        bound: seconds of the step; no schedule in this order within the budget takes less. inf where there is none.
        certain: as much of ``bound`` as follows from duals by exact arithmetic.
        closed: nothing is left to do: the bound is (all but) reached, there is no schedule, or what is ``enough`` is decided.
    """

    def __init__(
        self,
        problem: Problem,
        budget: int,
        reporter: Reporter | None = None,
        found_elsewhere: Callable[[], Sequence[Run]] = tuple,
        enough: float | None = None,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.reporter = reporter or Reporter()
        self._found_elsewhere = found_elsewhere
        self._enough = enough
        order = list(range(problem.n))
        self.lowest = Run(order, problem.simulate(order))
        self.best: Run | None = None
        self.bound = self.certain = problem.seconds
        self.closed = False
        self._relaxed = self._cut_short = False
        self._close_since: float | None = None
        self._moments: set[int] = set()
        self._inside: set[tuple[int, int]] = set()
        self._precision = _ROUGH
        self.offer(order)
        self._watch(self.lowest, most=1)

    def offer(self, nodes: list[int]) -> Run:
        """Judge a sequence, and keep it where it is better."""
        run = Run(nodes, self.problem.simulate(nodes))
        self._judge(run)
        return run

    def take_in(self) -> None:
        """Judge what was found elsewhere."""
        for run in self._found_elsewhere():
            self._judge(run)

    def _judge(self, run: Run) -> None:
        peak = run.simulation.peak_bytes
        if peak < self.lowest.simulation.peak_bytes:
            self.lowest = run
        if peak <= self.budget and (self.best is None or run.simulation.seconds < self.best.simulation.seconds):
            self.best = run
            self.reporter.improved(run.simulation.seconds, peak)
            self._close_if_proven()

    def work(self, deadline: Deadline) -> bool:
        """Go on until closed, out of time, at a loss, or a program was cut short and has told nothing.

        Returns:
            Whether another call may do more.
        """
        while not self.closed and not deadline.expired:
            before = (self.best, self.bound)
            if not (self.step(deadline) or self.focus()):
                return False
            if self._cut_short and (self.best, self.bound) == before:
                return True
        return False

    def focus(self) -> bool:
        """Watch memory where the best run has least to spare: there the budget binds. Whether anything is new."""
        if self.best is None or self.closed:
            return False
        spare = int(_TIGHT * (self.budget - self.problem.constant_bytes))
        self._precision = _ROUGH
        return self._watch(self.best, most=_MOMENTS_AT_A_TIME, limit=self.budget - spare)

    def step(self, deadline: Deadline) -> bool:
        """Solve once and learn from the answer; whether there is reason to go on."""
        self.take_in()
        problem = self.problem
        master = Master(problem, self.budget, sorted(self._moments), inside=self._inside)
        if master.program.columns > _MOST_COLUMNS:
            return False
        # A start that is far from the best slows the program down.
        start = observe(problem, self.best.nodes, master.moments) if self.best is not None and self._near() else None
        fine, first = self._precision == _FINE, not self._relaxed
        if first:
            self._relax(master, deadline)
        # The first program says most: without its answer there is nothing to go on from. And where a good schedule is known,
        # also one that was found meanwhile, the bound is missing, of which a program that is cut short and begun again with
        # more moments tells less.
        part = Deadline(math.inf if fine or first else max(_LEAST_STEP, _STEP_SHARE * deadline.remaining))

        def over(bound: float) -> bool:
            return self._meanwhile(bound, deadline) or deadline.expired or (part.expired and self.far)

        outcome = master.solve(seconds=deadline.at_most, gap=self._precision * problem.seconds, start=start, watch=over)
        self._cut_short = outcome.status in ("feasible", "unknown")
        self.take_in()
        self._raise_bound(problem.seconds + outcome.bound)
        if outcome.values is None or self.closed:
            return False
        run = self._emitted(master.decision(outcome.values))
        if self.closed:
            return False
        if run.simulation.peak_bytes > self.budget:
            self._tighten(run, master.moments, deadline)
            return self._watch(run, most=_MOMENTS_AT_A_TIME) or self._search(deadline)
        self._precision = _FINE
        return not fine

    def _meanwhile(self, bound: float, deadline: Deadline) -> bool:
        """While a program runs, whose bound this is so far: take in what is new; whether that settles everything."""
        self.take_in()
        step = self.problem.seconds
        if step + bound > self.bound + _TOLD * step:
            self._raise_bound(step + bound)
        if self._within(_CLOSE):
            if self._close_since is None:
                self._close_since = deadline.elapsed
            elif deadline.elapsed > self._close_since + max(_LEAST_CLOSING, self._close_since):
                self.closed = True
        return self.closed

    def _relax(self, master: Master, deadline: Deadline) -> None:
        """A bound in no time, whatever becomes of the integer programs."""
        self._relaxed = True
        self.certain = closure_bound(master, seconds=deadline.remaining)
        self._raise_bound(self.certain)

    def _emitted(self, decision: Decision) -> Run:
        """The best run for a decision, of the orders in which recomputation can be done."""
        runs = [self.offer(emit(self.problem, decision, by_index=by_index)) for by_index in (False, True)]
        return min(runs, key=lambda run: (max(run.simulation.peak_bytes, self.budget), run.simulation.seconds))

    def _tighten(self, run: Run, moments: Sequence[int], deadline: Deadline) -> None:
        """Where ``run`` overflows a little between moments, leave that much free at the moments around, and solve again."""
        step = self.problem.seconds
        margins: dict[int, int] = {}

        def over(bound: float) -> bool:
            # What leaves memory free on purpose has no bound to tell, and is done where it finds nothing better than is known.
            known = math.inf if self.best is None else self.best.simulation.seconds
            return self._meanwhile(-math.inf, deadline) or step + bound >= known

        for _ in range(_TIGHTENINGS):
            excess = run.simulation.peak_bytes - self.budget
            if not 0 < excess <= _SLIGHT * self.budget or self._near() or deadline.expired:
                return
            more: dict[int, int] = {}
            for node, bytes_ in self._overflows(run, self.budget)[0].items():
                k = bisect_right(moments, node)
                for t in moments[max(0, k - 1) : k + 1]:
                    more[t] = max(more.get(t, 0), bytes_ - self.budget)
            for t, bytes_ in more.items():
                margins[t] = margins.get(t, 0) + bytes_
            master = Master(self.problem, self.budget, moments, inside=self._inside, margins=margins)
            seconds = min(deadline.remaining, max(_LEAST_STEP, _STEP_SHARE * deadline.remaining))
            outcome = master.solve(seconds=seconds, gap=_NEAR / 4 * step, watch=over)
            if outcome.values is not None:
                run = self._emitted(master.decision(outcome.values))
            if outcome.status != "optimal":
                return

    @property
    def far(self) -> bool:
        """Whether programs will hardly close the gap, or there is no schedule yet."""
        return not self._within(_FAR)

    def _near(self) -> bool:
        """Whether the best run is so good that a slightly better one can wait."""
        return self._within(_NEAR)

    def _within(self, fraction: float) -> bool:
        """Whether the best run is within this fraction of the step's time of the bound."""
        return self.best is not None and self.best.simulation.seconds - self.bound <= fraction * self.problem.seconds

    def _search(self, deadline: Deadline) -> bool:
        """What no row can say: the order of recomputation inside a window. On a tiny graph, try them all. Always False."""
        if searchable(self.problem):
            found = search(self.problem, self.budget, deadline)
            if found.nodes is not None:
                self.offer(found.nodes)
            self._raise_bound(found.bound)
        return False

    def _raise_bound(self, bound: float) -> None:
        safe = bound - TOLERANCE * max(0.0, bound - self.problem.seconds) if math.isfinite(bound) else bound
        if safe > self.bound:
            self.bound = safe
            self.reporter.bound(safe)
            self._close_if_proven()

    def proves(self, seconds: float) -> bool:
        """Whether a schedule of this cost is as good as any within the budget."""
        return seconds - self.bound <= OPTIMAL_TOLERANCE * self.problem.seconds

    def _close_if_proven(self) -> None:
        best = math.inf if self.best is None else self.best.simulation.seconds
        decided = self._enough is not None and (best <= self._enough or self.bound > self._enough)
        if self.bound == math.inf or self.proves(best) or decided:
            self.closed = True

    def _watch(self, run: Run, *, most: int, limit: int | None = None) -> bool:
        """Add moments and rows where ``run`` is over the limit (the budget, if None); whether anything is new."""
        worst, inside = self._overflows(run, self.budget if limit is None else limit)
        known = len(self._moments) + len(self._inside)
        groups: list[list[int]] = []
        for node in sorted(worst):
            if groups and node == groups[-1][-1] + 1:
                groups[-1].append(node)
            else:
                groups.append([node])
        # Where an overflow is worst, and where it begins: recomputation for a whole stretch runs before its first node.
        heads = {max(group, key=worst.__getitem__) for group in groups} | {group[0] for group in groups}
        fresh = [node for node in sorted(heads, key=worst.__getitem__, reverse=True) if node not in self._moments]
        self._moments.update(fresh[:most])
        if len(self._moments) + len(self._inside) == known:
            rest = [node for node in sorted(worst, key=worst.__getitem__, reverse=True) if node not in self._moments]
            self._moments.update(rest[:1])
        if len(self._moments) + len(self._inside) == known:
            for _, node, again in sorted(inside, reverse=True)[:6]:
                self._inside.add((node, again))
                if node and not self.problem.auxiliary[node - 1]:
                    self._moments.add(node - 1)
        return len(self._moments) + len(self._inside) > known

    def _overflows(self, run: Run, limit: int) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
        """Where a run is over the limit; at its peak, if it is nowhere.

        Returns:
            The worst bytes for each first run, its recomputations included; and for each recomputation the bytes, the first run
            that it serves and the node.
        """
        problem = self.problem
        over = run.simulation.bytes > limit
        if not over.any():
            over = run.simulation.bytes == run.simulation.peak_bytes
        worst: dict[int, int] = {}
        inside: list[tuple[int, int, int]] = []
        served = served_by(problem, run.nodes)
        for position in np.flatnonzero(over).tolist():
            node, bytes_ = served[position], int(run.simulation.bytes[position])
            if node < 0:
                continue
            worst[node] = max(worst.get(node, 0), bytes_)
            if run.nodes[position] != node:
                inside.append((bytes_, node, run.nodes[position]))
        return worst, inside


def bound_note(method: LazyMoments) -> str:
    """What a bound rests on, and how much of it is certain whatever the accuracy of HiGHS; empty where it says nothing."""
    step, bound = method.problem.seconds, method.bound
    if not step < bound < math.inf:
        return ""
    overhead, sure = (100 * (min(value, bound) / step - 1) for value in (bound, method.certain))
    return f"bound {overhead:.4f} % by branch and bound at HiGHS's tolerances; {sure:.4f} % by exact arithmetic on duals alone"
