"""Lazy moments, and beside them every other method; the answer has the best schedule of all and the best bound.

The policies that people set by hand run first. Then lazy moments run from start to end in the caller's thread, because they
end with a proof and a program that is cut short says little. If they have not closed after a tenth of the time, a second thread
runs the other methods: a first annealing, since any schedule helps the programs to finish; the quick methods; then annealings,
half of them cold, half from the best schedule or the one that almost fits. Near the bound, annealings alternate with windows of
the best schedule solved again. HiGHS and the compiled annealing release the interpreter, so both threads run. Each helps the
other: annealing repairs overflows between moments, and a good schedule shows where memory binds and lets the programs prune.

Where first executions may move, annealings in which they do go on from that answer.

Where the graph has pools, the solver "offload" begins, then "pofo"; all of that follows only if schedules without copies may be
better.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import TIMEOUT_MAX, Event, Lock

from remat_planner.schedules import preference, simulate
from remat_planner.solvers import registry
from remat_planner.solvers.annealing import anneal, anneal_in_any_order, in_time
from remat_planner.solvers.copies import NO_TIME_TO_COMPILE, CopySearch
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import (
    ANY_SCHEDULE,
    COPIES_AT_RATES,
    ORDER_GIVEN,
    WITHOUT_COPIES,
    Answer,
    Reporter,
    Solver,
    Task,
)
from remat_planner.solvers.lazy_moments import LazyMoments, SimulatedSequence, any_order_bound, bound_note, solve_windows
from remat_planner.solvers.polish import polished

# Share of the time in which lazy moments run alone: threads share caches, so a second one makes a program up to twice as slow.
_ALONE_SHARE = 0.1
# Share of the remaining time for the first annealing.
_FIRST_SHARE = 0.05
# The policies that reports print beside a plan, whose rows must not beat it. They take milliseconds, or a second on graphs of
# 10,000 ops. They have these seconds even where the limit is shorter, as they have for the report.
_POLICIES, _POLICY_SECONDS = ("chen", "every-n"), 5.0
# Where the graph has pools: shares of the remaining time for chains that copy, and for schedules without copies, if they may be
# better.
_CHAIN_SHARE, _WITHOUT_COPIES_SHARE = 0.15, 0.5
# Share of the remaining time for each other quick method, at most.
_QUICK_SHARE = 0.05
# Share of the remaining time for the two levels, whose integer programs need more than a quick method.
_LEVELS_SHARE = 0.1
# Share of the remaining time for each later annealing.
_ANNEALING_SHARE = 0.6
# Share of the remaining time for one pass over the windows of a schedule.
_WINDOWS_SHARE = 0.2
# After this many turns in a row without a better schedule, lazy moments have the machine to themselves.
_IDLE_TURNS = 2
# Seconds below which a turn finds nothing.
_LEAST_TURN = 0.2
# Share of the whole time for the last pass over a schedule.
_POLISH_SHARE = 0.05
# Share of the time for the given order, where first executions may move afterwards.
_GIVEN_SHARE = 0.6
# Share of the remaining time for the bound on every order.
_ANY_BOUND_SHARE = 0.2
# If no schedule fits: share of the time for the search for the least budget that has one.
_LEAST_SHARE = 0.4
# Share of what is left of that for one method on one budget.
_ONE_BUDGET_SHARE = 0.25
# Precision of that search, as a fraction of the largest budget known to be too small.
_LEAST_WITHIN = 0.01


class Auto(Solver):
    """All methods on one task, in two threads."""

    name = "auto"
    description = "lazy moments, and beside them every other method; keeps the best schedule and the best bound"
    proves = "what lazy moments prove: a lower bound for all schedules that keep the given order of first runs, copies included"
    any_order = True
    copies = True
    anytime = True

    def solve(self, task: Task) -> Answer:
        """The best schedule of all methods; if none fits, the one with the lowest peak."""
        if task.graph.pools:
            return _with_copies(task)
        if task.order == "any":
            return _in_any_order(task)
        search = _Search(task)
        for steps in task.start:
            search.offer(task.problem.nodes_of(steps), self.name)
        search.run()
        if not search.feasible and task.enough is None:
            search.lower_the_peak()
        return search.answer()


class _Improvements(Reporter):
    """Tells another reporter of better schedules alone."""

    def __init__(self, reporter: Reporter) -> None:
        self.improved = reporter.improved  # type: ignore[method-assign]


def _in_any_order(task: Task) -> Answer:
    """The answer for the given order, then annealings from it in which first executions move.

    The bound is one for every order; that of the given order only where the former says nothing.
    """
    problem, deadline = task.problem, task.deadline
    starts = tuple(steps for steps in task.start if problem.keeps_order(steps))
    reporter = _Improvements(task.reporter)  # no bounds: they are of a narrower class than the one told in the end
    answer = Auto().solve(task.derive(deadline=deadline.part(_GIVEN_SHARE), start=starts, reporter=reporter, order="given"))
    bound = any_order_bound(problem, task.budget, deadline.part(_ANY_BOUND_SHARE))
    task.reporter.bound(bound)
    if not in_time(deadline):
        return _with_bound(task, answer, bound)
    sequences = [problem.nodes_of(steps) for steps in (answer.steps, *task.start)]

    def improved(nodes: Sequence[int]) -> None:
        simulation = problem.simulate(nodes)
        task.reporter.improved(simulation.seconds, simulation.peak_bytes)

    limit = deadline.part(1 - _POLISH_SHARE)
    best = anneal_in_any_order(problem, task.budget, limit, starts=sequences, improved=improved)
    if best.nodes != sequences[0]:
        steps = problem.expand(polished(problem, task.budget, best.nodes, deadline))
        answer = replace(answer, steps=steps, solver="anneal")
    return _with_bound(task, answer, bound)


def _with_bound(task: Task, answer: Answer, bound: float) -> Answer:
    """``answer`` with ``bound``, which is for every order, unless that says nothing beyond the step's own seconds."""
    fits = simulate(task.graph, answer.steps).peak_bytes <= task.budget
    if bound > task.graph.seconds if fits else bound == math.inf:
        return replace(answer, bound=bound, assumption=ANY_SCHEDULE, note="")
    return answer


def _with_copies(task: Task) -> Answer:
    """Copies first; then, unless provably worse, all methods without copies; then the search goes on from the best."""
    graph = task.graph
    if not CopySearch.in_time(task.deadline):
        answer = Auto().solve(task.without_transfers())
        return replace(answer, assumption=answer.assumption + WITHOUT_COPIES, note=NO_TIME_TO_COMPILE)
    search = CopySearch(task)
    search.begin()
    candidates: list[tuple[Sequence[int], str]] = []
    if not search.settled:
        part = task.deadline.part(_CHAIN_SHARE)
        on_chains = registry.get("pofo").solve(task.derive(deadline=part, reporter=Reporter()))
        candidates.append((on_chains.steps, "pofo"))
        search.offer(on_chains.steps)
    best = search.best
    if not search.settled and (best.excess or best.seconds > search.without_copies):
        plain = replace(task.without_transfers(), deadline=task.deadline.part(_WITHOUT_COPIES_SHARE), reporter=Reporter())
        answer = Auto().solve(plain)
        candidates.append((answer.steps, answer.solver or Auto.name))
        search.offer(answer.steps)
    search.anneal()
    candidates.insert(0, (search.steps(), "offload"))
    steps, solver = min(candidates, key=lambda candidate: preference(simulate(graph, candidate[0]), task.budget))
    return Answer(steps, search.bound, ORDER_GIVEN + COPIES_AT_RATES, solver=solver)


class _Search:
    """The best schedules and the bound so far, from methods in two threads.

    Only the caller's thread touches ``_lazy``, and with it the reporter. Schedules from the other thread wait in ``_inbox``.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem = task.problem
        # Extended to the whole time once a schedule fits and the search for the least budget is not needed.
        self._deadline = task.deadline.part(1 - _LEAST_SHARE)
        self._inbox: deque[SimulatedSequence] = deque()
        self._best_lock = Lock()
        self._may_start_others, self._news = Event(), Event()
        self._stopped = False
        self._lazy = LazyMoments(
            task.problem, task.budget, task.reporter, found_elsewhere=self._empty_inbox, enough=task.enough
        )
        self._cheapest: tuple[SimulatedSequence, str] | None = None  # within the budget, with the name of its solver
        self._lowest = (self._lazy.lowest, "none")
        self._keep(self._lazy.lowest, "none")

    @property
    def feasible(self) -> bool:
        """Whether a schedule within the budget is known."""
        return self._cheapest is not None

    def offer(self, nodes: list[int], solver: str) -> None:
        """Keep a sequence if it is better than the best so far, and send it to lazy moments."""
        run = SimulatedSequence(nodes, self._problem.simulate(nodes))
        self._keep(run, solver)
        self._inbox.append(run)
        self._news.set()

    def run(self) -> None:
        """Run all methods until the time is over, or the best schedule is proven optimal, or infeasibility is proven."""
        for name in _POLICIES:
            self._ask(name, Deadline(_POLICY_SECONDS))
        with ThreadPoolExecutor(max_workers=1) as pool:
            others = pool.submit(self._run_others)
            others.add_done_callback(lambda _: self._news.set())
            try:
                self._run_lazy_moments(others)
            except BaseException:
                self._stopped = True
                raise
            finally:
                if self._lazy.closed or self._stopped:
                    self._deadline.end()
                self._may_start_others.set()
            others.result()
        self._lazy.take_in()

    def lower_the_peak(self) -> None:
        """Look for the least budget that has a schedule, by bisection."""
        problem, deadline = self._problem, self._task.deadline
        too_small = self._task.budget
        while deadline.remaining > _LEAST_TURN:
            enough = self._lowest[0].simulation.peak_bytes
            if enough - too_small <= max(1, _LEAST_WITHIN * too_small):
                return
            budget = (enough + too_small) // 2
            lazy, part = LazyMoments(problem, budget), deadline.part(_ONE_BUDGET_SHARE)
            while lazy.work(part):
                pass
            self._keep(lazy.best or lazy.lowest, "ilp")
            if lazy.best is None and lazy.bound < math.inf and in_time(deadline):
                annealed = anneal(problem, budget, deadline.part(_ONE_BUDGET_SHARE), starts=[self._lowest[0].nodes])
                self._keep(SimulatedSequence(annealed.nodes, problem.simulate(annealed.nodes)), "anneal")
            if self._lowest[0].simulation.peak_bytes > budget:
                too_small = budget

    def answer(self) -> Answer:
        """The best schedule with the best bound."""
        run, solver = self._cheapest or self._lowest
        limit = Deadline(_POLISH_SHARE * self._task.deadline.seconds)
        return Answer(
            steps=self._problem.expand(polished(self._problem, self._task.budget, run.nodes, limit)),
            bound=self._lazy.bound,
            assumption=ORDER_GIVEN,
            note=bound_note(self._lazy),
            solver=solver,
        )

    def _keep(self, run: SimulatedSequence, solver: str) -> None:
        cost, peak = run.simulation.seconds, run.simulation.peak_bytes
        with self._best_lock:
            lowest = self._lowest[0].simulation
            if (peak, cost) < (lowest.peak_bytes, lowest.seconds):
                self._lowest = (run, solver)
            if peak <= self._task.budget and (self._cheapest is None or cost < self._cheapest[0].simulation.seconds):
                self._cheapest = (run, solver)
                self._deadline.extend_to(self._task.deadline)

    # ---------------------------------------------------------------- in the caller's thread

    def _run_lazy_moments(self, others: Future[None]) -> None:
        """Work on the programs; when they get no further, wait for schedules from the other thread."""
        lazy, deadline = self._lazy, self._deadline
        while not lazy.closed and not deadline.expired:
            more = lazy.work(deadline)
            self._keep_lazy_runs()
            self._may_start_others.set()
            while not lazy.closed and not deadline.expired and not (more or lazy.focus()):
                if others.done() and not self._inbox:
                    return
                self._news.wait(min(deadline.remaining, TIMEOUT_MAX))
                self._news.clear()
                lazy.take_in()

    def _empty_inbox(self) -> list[SimulatedSequence]:
        return [self._inbox.popleft() for _ in range(len(self._inbox))]

    def _keep_lazy_runs(self) -> None:
        self._keep(self._lazy.lowest, "ilp")
        if self._lazy.best is not None:
            self._keep(self._lazy.best, "ilp")

    # ---------------------------------------------------------------- in the other thread

    def _run_others(self) -> None:
        self._may_start_others.wait(min(_ALONE_SHARE * self._task.deadline.remaining, TIMEOUT_MAX))
        if self._lazy.closed:
            return
        self._anneal(_FIRST_SHARE, seed=0)
        for name in registry.available():
            if registry.get(name).quick and name not in _POLICIES:
                self._ask(name, self._deadline.part(_QUICK_SHARE))
        self._ask("twolevel", self._deadline.part(_LEVELS_SHARE))
        seed, idle = 1, 0
        while idle < _IDLE_TURNS and self._deadline.remaining > _LEAST_TURN and not self._stopped:
            improved = self._anneal(_ANNEALING_SHARE, seed=seed)
            if not self._lazy.far:
                improved |= self._solve_windows()
            seed, idle = seed + 1, 0 if improved else idle + 1

    def _ask(self, name: str, deadline: Deadline) -> None:
        if not self._lazy.closed and not self._stopped:
            answer = registry.get(name).solve(self._task.derive(deadline=deadline, reporter=Reporter()))
            nodes = self._problem.nodes_of(answer.steps)
            self.offer(polished(self._problem, self._task.budget, nodes, deadline), answer.solver or name)

    def _anneal(self, share: float, *, seed: int) -> bool:
        """Anneal for a share of the remaining time; return whether a better schedule came of it.

        The annealing with seed 0 is cold; of the others, half starts from the best schedules so far.
        """
        if not in_time(self._deadline):
            return False
        self._keep_lazy_runs()
        cheapest, lowest = self._cheapest, self._lowest
        starts = [*([cheapest[0].nodes] if cheapest else []), lowest[0].nodes] if seed else []
        part = self._deadline.part(share)
        # The programs need the other processor, unless little can be expected of them.
        bound, threads = self._lazy.bound, 2 if self._lazy.far else 1
        annealed = anneal(self._problem, self._task.budget, part, starts=starts, target=bound, seed=seed, threads=threads)
        self.offer(annealed.nodes, "anneal")
        return self._cheapest is not cheapest or self._lowest is not lowest

    def _solve_windows(self) -> bool:
        """Solve windows of the best schedule again; return whether that improved it."""
        self._keep_lazy_runs()
        if self._cheapest is None:
            return False
        best = self._cheapest[0].nodes
        nodes = solve_windows(self._problem, self._task.budget, best, self._deadline.part(_WINDOWS_SHARE))
        if nodes == best:
            return False
        self.offer(nodes, "windows")
        return True
