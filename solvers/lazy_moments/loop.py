"""The loop of lazy moments: an exact method for a given order of first runs, and a bound for every budget.

Solve the program that watches memory at a few moments (``master_program``), build the sequence that its answer describes
(``decision.emit``), simulate it. Within the budget: done, and the program's bound proves how good it is. Otherwise watch memory
also where it overflowed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import OPTIMAL_TOLERANCE, Reporter
from remat_planner.solvers.lazy_moments.decision import Decision, emit, observe
from remat_planner.solvers.lazy_moments.master_program import MasterProgram, closure_bound
from remat_planner.solvers.lazy_moments.options import DEFAULT_OPTIONS, LazyMomentsOptions
from remat_planner.solvers.lazy_moments.simulated_sequence import SimulatedSequence
from remat_planner.solvers.lazy_moments.tiny_graph_search import search, searchable
from remat_planner.solvers.lazy_moments.watch_list import WatchList, overflows
from remat_planner.solvers.milp import TOLERANCE, Outcome, Watch
from remat_planner.solvers.problem import Problem


class LazyMoments:
    """The loop, one step at a time, so that its caller may stop it or share the time.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        reporter: hears of better schedules and bounds.
        found_elsewhere: returns the sequences that other methods have found since the last call.
        enough: seconds of the step: the loop ends once it knows whether a schedule takes at most that; None asks for the best.
        options: switches and tuning numbers.

    Attributes:
        best: the cheapest sequence within the budget, or None.
        lowest: the sequence with the lowest peak.
        bound: seconds of the step; no schedule in this order within the budget takes less. inf if there is none.
        certain: the part of ``bound`` that follows from duals by exact arithmetic, in seconds of the step.
        closed: nothing is left to do: the bound is (all but) reached, there is no schedule, or ``enough`` is decided.
        programs: integer programs solved so far.
        iterations: simplex iterations of these programs, a measure of the work.
    """

    def __init__(
        self,
        problem: Problem,
        budget: int,
        reporter: Reporter | None = None,
        found_elsewhere: Callable[[], Sequence[SimulatedSequence]] = tuple,
        enough: float | None = None,
        options: LazyMomentsOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.reporter = reporter or Reporter()
        self.options = options
        self._found_elsewhere = found_elsewhere
        self._enough = enough
        order = list(range(problem.n))
        self.lowest = SimulatedSequence(order, problem.simulate(order))
        self.best: SimulatedSequence | None = None
        self.bound = self.certain = problem.seconds
        self.closed = False
        self.programs = self.iterations = 0
        self._cut_short = False
        self._close_since: float | None = None  # seconds since the start of the deadline at which best and bound came close
        self._precision = options.rough
        self._watched = WatchList(problem, inside_rows=options.inside_rows)
        self.offer(order)
        self._watched.add(self.lowest, budget, most=1)

    def offer(self, nodes: list[int]) -> SimulatedSequence:
        """Simulate a sequence, and keep it if it is better."""
        sequence = SimulatedSequence(nodes, self.problem.simulate(nodes))
        self._keep(sequence)
        return sequence

    def take_in(self) -> None:
        """Keep the sequences that were found elsewhere, if they are better."""
        for sequence in self._found_elsewhere():
            self._keep(sequence)

    def work(self, deadline: Deadline) -> bool:
        """Go on until closed, out of time or ideas, or until a program is cut short without news.

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
        """Watch memory where the best sequence is closest to the budget: there the budget binds. Whether anything is new."""
        if self.best is None or self.closed or not self.options.focus:
            return False
        spare = int(self.options.tight * (self.budget - self.problem.constant_bytes))
        self._precision = self.options.rough
        return self._watched.add(self.best, self.budget - spare, most=self.options.moments_at_a_time)

    def step(self, deadline: Deadline) -> bool:
        """Solve once and learn from the answer; whether there is reason to go on."""
        options, problem = self.options, self.problem
        self.take_in()
        master = self._master(sorted(self._watched.moments))
        if master.program.columns > options.most_columns:
            return False
        start = self._start(master)
        fine, first = self._precision == options.fine, self.programs == 0
        if first and options.relax_first:
            self.certain = closure_bound(master, seconds=deadline.remaining)
            self._raise_bound(self.certain)
        # The first program is not cut short: without its answer nothing else can begin. Nor is one where a good schedule is
        # known, even one found meanwhile: there only the bound is missing, and a new program with more moments raises it less.
        share = math.inf if fine or first else max(options.least_step, options.step_share * deadline.remaining)
        part = Deadline(share)

        def settled(bound: float) -> bool:
            return self._hear(bound, deadline) or deadline.expired or (part.expired and self.far)

        gap = self._precision * problem.seconds
        outcome = self._solve(master, seconds=deadline.at_most, gap=gap, start=start, watch=settled)
        self._cut_short = outcome.status in ("feasible", "unknown")
        self.take_in()
        self._raise_bound(problem.seconds + outcome.bound)
        if outcome.values is None or self.closed:
            return False
        sequence = self._emitted(master.decision(outcome.values))
        if self.closed:
            return False
        if sequence.simulation.peak_bytes > self.budget:
            self._tighten(sequence, master.moments, deadline)
            if self._watched.add(sequence, self.budget, most=options.moments_at_a_time):
                return True
            self._search_tiny_graph(deadline)
            return False
        self._precision = options.fine
        return not fine

    @property
    def far(self) -> bool:
        """Whether programs will hardly close the gap, or no schedule is known yet."""
        return not self._within(self.options.far)

    def proves(self, seconds: float) -> bool:
        """Whether a schedule of this cost is as good as any within the budget."""
        return seconds - self.bound <= OPTIMAL_TOLERANCE * self.problem.seconds

    def _keep(self, sequence: SimulatedSequence) -> None:
        seconds, peak = sequence.simulation.seconds, sequence.simulation.peak_bytes
        if peak < self.lowest.simulation.peak_bytes:
            self.lowest = sequence
        if peak <= self.budget and seconds < self._best_seconds:
            self.best = sequence
            self.reporter.improved(seconds, peak)
            self._close_if_settled()

    @property
    def _best_seconds(self) -> float:
        return math.inf if self.best is None else self.best.simulation.seconds

    def _within(self, fraction: float) -> bool:
        """Whether the best sequence is within this fraction of the step of the bound."""
        return self.best is not None and self._best_seconds - self.bound <= fraction * self.problem.seconds

    def _master(self, moments: Sequence[int], margins: dict[int, int] | None = None) -> MasterProgram:
        inside = self._watched.inside
        return MasterProgram(self.problem, self.budget, moments, inside=inside, margins=margins, options=self.options.program)

    def _solve(
        self, master: MasterProgram, *, seconds: float, gap: float, watch: Watch, start: Decision | None = None
    ) -> Outcome:
        outcome = master.solve(seconds=seconds, gap=gap, start=start, watch=watch)
        self.programs += 1
        self.iterations += outcome.iterations
        return outcome

    def _start(self, master: MasterProgram) -> Decision | None:
        """The best sequence as a start for HiGHS. One far from the bound slows it down."""
        if self.best is None or not self.options.warm_starts or not self._within(self.options.near):
            return None
        return observe(self.problem, self.best.nodes, master.moments)

    def _hear(self, bound: float, deadline: Deadline) -> bool:
        """Take in news while a program runs, whose bound is ``bound`` so far; whether the question is settled."""
        if not self.options.watch_bounds:
            return False
        self.take_in()
        step = self.problem.seconds
        if step + bound > self.bound + self.options.reported * step:
            self._raise_bound(step + bound)
        if self._within(self.options.close):
            if self._close_since is None:
                self._close_since = deadline.elapsed
            elif deadline.elapsed > self._close_since + max(self.options.least_closing, self._close_since):
                self.closed = True
        return self.closed

    def _emitted(self, decision: Decision) -> SimulatedSequence:
        """The best sequence for a decision, over the orders in which recomputation can be done."""
        orders = (False, True) if self.options.both_orders else (False,)
        sequences = [self.offer(emit(self.problem, decision, by_index=by_index)) for by_index in orders]
        return min(sequences, key=lambda s: (max(s.simulation.peak_bytes, self.budget), s.simulation.seconds))

    def _tighten(self, sequence: SimulatedSequence, moments: Sequence[int], deadline: Deadline) -> None:
        """Where ``sequence`` overflows slightly between moments, leave as much free at the moments around, and solve again."""
        options, step = self.options, self.problem.seconds
        margins: dict[int, int] = {}

        def hopeless(bound: float) -> bool:
            # This program's bound says nothing about the step, as it leaves memory free. It only says when to give up.
            return self._hear(-math.inf, deadline) or step + bound >= self._best_seconds

        for _ in range(options.tightenings):
            excess = sequence.simulation.peak_bytes - self.budget
            if not 0 < excess <= options.slight * self.budget or self._within(options.near) or deadline.expired:
                return
            for t, bytes_ in self._missing_bytes(sequence, moments).items():
                margins[t] = margins.get(t, 0) + bytes_
            master = self._master(moments, margins)
            seconds = min(deadline.remaining, max(options.least_step, options.step_share * deadline.remaining))
            outcome = self._solve(master, seconds=seconds, gap=options.near / 4 * step, watch=hopeless)
            if outcome.values is not None:
                sequence = self._emitted(master.decision(outcome.values))
            if outcome.status != "optimal":
                return

    def _missing_bytes(self, sequence: SimulatedSequence, moments: Sequence[int]) -> dict[int, int]:
        """For the moments on both sides of each overflow its bytes over the budget."""
        missing: dict[int, int] = {}
        for node, bytes_ in overflows(self.problem, sequence, self.budget)[0].items():
            k = bisect_right(moments, node)
            for t in moments[max(0, k - 1) : k + 1]:
                missing[t] = max(missing.get(t, 0), bytes_ - self.budget)
        return missing

    def _search_tiny_graph(self, deadline: Deadline) -> None:
        """No row can state in which order a window recomputes. On a tiny graph, try every order."""
        if self.options.exhaustive and searchable(self.problem):
            answer = search(self.problem, self.budget, deadline)
            if answer.nodes is not None:
                self.offer(answer.nodes)
            self._raise_bound(answer.bound)

    def _raise_bound(self, bound: float) -> None:
        safe = bound - TOLERANCE * max(0.0, bound - self.problem.seconds) if math.isfinite(bound) else bound
        if safe > self.bound:
            self.bound = safe
            self.reporter.bound(safe)
            self._close_if_settled()

    def _close_if_settled(self) -> None:
        best = self._best_seconds
        decided = self._enough is not None and (best <= self._enough or self.bound > self._enough)
        if self.bound == math.inf or self.proves(best) or decided:
            self.closed = True


def bound_note(method: LazyMoments) -> str:
    """What a bound rests on, and how much of it is certain whatever the accuracy of HiGHS; empty where it says nothing."""
    step, bound = method.problem.seconds, method.bound
    if not step < bound < math.inf:
        return ""
    overhead, sure = (100 * (min(value, bound) / step - 1) for value in (bound, method.certain))
    return f"bound {overhead:.4f} % by branch and bound at HiGHS's tolerances; {sure:.4f} % by exact arithmetic on duals alone"
