"""Whatever works: lazy moments, because they end with a proof, and beside them every other method.

The best schedule of all methods is kept, and the best bound; so the answer is never worse than any other solver's here. Lazy
moments run from the first second to the last: a program that is cut short has told next to nothing. What they have not closed
in a while gets company in another thread: a first annealing, because a schedule, however dear, lets the programs run to their
end; the quick methods; then annealing, half of it cold, half from the best schedule or the one that almost fits, by turns with
windows of the best schedule solved again, where that is near the bound. HiGHS and the compiled annealing both leave the
interpreter free. What is found on one side helps the other: annealing repairs what overflows between moments, and a good
schedule shows where memory binds and lets the programs prune.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import TIMEOUT_MAX, Event, Lock

from remat_planner.solvers import registry
from remat_planner.solvers.annealing import anneal, in_time, nodes_of
from remat_planner.solvers.interface import ORDER_GIVEN, Answer, Reporter, Solver, Task
from remat_planner.solvers.lazy_moments import LazyMoments, Run, bound_note, solve_windows

# The share of the time that lazy moments get by themselves: two threads share caches, and a program takes up to twice as long.
_ALONE_SHARE = 0.1
# Of the time that is left then, what a first annealing gets, each of the quick methods at most, and the two levels.
_FIRST_SHARE, _QUICK_SHARE, _LEVELS_SHARE = 0.05, 0.05, 0.1
# The shares of what is left that an annealing takes, and one pass over the windows of a schedule.
_ANNEALING_SHARE, _WINDOWS_SHARE = 0.6, 0.2
# After so many turns of both in a row that found nothing, lazy moments have the machine to themselves.
_IDLE_TURNS = 2
# Where nothing fits, what the search for the least budget that works gets, and of what is left then, one method on one budget.
_LEAST_SHARE, _ONE_BUDGET_SHARE = 0.4, 0.25
# Lazy moments need no help from the full program, and annealing has turns of its own.
_NOT_QUICK = ("auto", "ilp", "checkmate", "twolevel", "anneal")
# A turn shorter than this many seconds finds nothing.
_LEAST_TURN = 0.2
# How near to the largest budget known not to work the least one that works is looked for, as a fraction of it.
_LEAST_WITHIN = 0.01


class Auto(Solver):
    """``auto``."""

    name = "auto"
    description = "lazy moments, and beside them every other method; keeps the best schedule and the best bound"
    proves = "what lazy moments prove: a lower bound for all schedules that keep the given order of first runs"

    def solve(self, task: Task) -> Answer:
        """The best of all methods; where nothing fits, the schedule with the lowest peak."""
        search = _Search(task)
        for steps in task.start:
            search.offer(nodes_of(task.problem, steps), "start")
        search.run()
        if not search.feasible and task.enough is None:
            search.least()
        return search.answer()


class _Search:
    """The schedules and the bound found so far, by methods in two threads.

    Only the caller's thread touches ``_lazy``, and with it the reporter; what the other one finds waits for it in ``_found``.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem = task.problem
        self._deadline = task.deadline.part(1 - _LEAST_SHARE)
        self._found: deque[Run] = deque()
        self._kept = Lock()
        self._company, self._news = Event(), Event()
        self._stopped = False
        self._lazy = LazyMoments(task.problem, task.budget, task.reporter, found_elsewhere=self._take, enough=task.enough)
        self._fit: tuple[Run, str] | None = None
        self._low = (self._lazy.lowest, "none")
        self._keep(self._lazy.lowest, "none")

    @property
    def feasible(self) -> bool:
        """Whether a schedule within the budget is known."""
        return self._fit is not None

    def offer(self, nodes: list[int], name: str) -> None:
        """Keep a sequence where it is better, and let lazy moments know of it."""
        run = Run(nodes, self._problem.simulate(nodes))
        self._keep(run, name)
        self._found.append(run)
        self._news.set()

    def run(self) -> None:
        """All methods, until time is out, or the best schedule is proven to be the best there is, or that there is none."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            others = pool.submit(self._others)
            others.add_done_callback(lambda _: self._news.set())
            try:
                self._moments(others)
            except BaseException:
                self._stopped = True
                raise
            finally:
                if self._lazy.closed or self._stopped:
                    self._deadline.end()
                self._company.set()
            others.result()
        self._lazy.take_in()

    def least(self) -> None:
        """Look for the least budget that works, by halves between one that does and one that does not."""
        problem, deadline = self._problem, self._task.deadline
        below = self._task.budget
        while deadline.remaining > _LEAST_TURN:
            above = self._low[0].simulation.peak_bytes
            if above - below <= max(1, _LEAST_WITHIN * below):
                return
            budget = (above + below) // 2
            lazy, part = LazyMoments(problem, budget), deadline.part(_ONE_BUDGET_SHARE)
            while lazy.work(part):
                pass
            self._keep(lazy.best or lazy.lowest, "ilp")
            if lazy.best is None and lazy.bound < math.inf and in_time(deadline):
                found = anneal(problem, budget, deadline.part(_ONE_BUDGET_SHARE), starts=[self._low[0].nodes])
                self._keep(Run(found.nodes, problem.simulate(found.nodes)), "anneal")
            if self._low[0].simulation.peak_bytes > budget:
                below = budget

    def answer(self) -> Answer:
        """The best schedule with the best bound."""
        run, name = self._fit or self._low
        return Answer(
            steps=self._problem.expand(run.nodes),
            bound=self._lazy.bound,
            assumption=ORDER_GIVEN,
            note=bound_note(self._lazy),
            solver=name,
        )

    def _keep(self, run: Run, name: str) -> None:
        cost, peak = run.simulation.seconds, run.simulation.peak_bytes
        with self._kept:
            low = self._low[0].simulation
            if (peak, cost) < (low.peak_bytes, low.seconds):
                self._low = (run, name)
            if peak <= self._task.budget and (self._fit is None or cost < self._fit[0].simulation.seconds):
                self._fit = (run, name)
                self._deadline.extend_to(self._task.deadline)

    # ---------------------------------------------------------------- in the caller's thread

    def _moments(self, others: Future[None]) -> None:
        """Lazy moments; where they get no further, wait for the others."""
        lazy, deadline = self._lazy, self._deadline
        while not lazy.closed and not deadline.expired:
            more = lazy.work(deadline)
            self._take_from_lazy()
            self._company.set()
            while not lazy.closed and not deadline.expired and not (more or lazy.focus()):
                if others.done() and not self._found:
                    return
                self._news.wait(min(deadline.remaining, TIMEOUT_MAX))
                self._news.clear()
                lazy.take_in()

    def _take(self) -> list[Run]:
        """What the other thread has found since."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def _take_from_lazy(self) -> None:
        self._keep(self._lazy.lowest, "ilp")
        if self._lazy.best is not None:
            self._keep(self._lazy.best, "ilp")

    # ---------------------------------------------------------------- in the other thread

    def _others(self) -> None:
        self._company.wait(min(_ALONE_SHARE * self._task.deadline.remaining, TIMEOUT_MAX))
        if self._lazy.closed:
            return
        self._anneal(_FIRST_SHARE, seed=0)
        for name in registry.available():
            if name not in _NOT_QUICK:
                self._ask(name, _QUICK_SHARE)
        self._ask("twolevel", _LEVELS_SHARE)
        seed, idle = 1, 0
        while idle < _IDLE_TURNS and self._deadline.remaining > _LEAST_TURN and not self._stopped:
            better = self._anneal(_ANNEALING_SHARE, seed=seed)
            if not self._lazy.far:
                better |= self._windows()
            seed, idle = seed + 1, 0 if better else idle + 1

    def _windows(self) -> bool:
        """Solve windows of the best schedule again; whether that made it better."""
        self._take_from_lazy()
        if self._fit is None:
            return False
        best = self._fit[0].nodes
        nodes = solve_windows(self._problem, self._task.budget, best, self._deadline.part(_WINDOWS_SHARE))
        if nodes == best:
            return False
        self.offer(nodes, "windows")
        return True

    def _anneal(self, share: float, *, seed: int) -> bool:
        """One annealing, for a share of the time that is left; whether it found something better than is known.

        The first is cold; half of every other one starts from what is known by then.
        """
        if not in_time(self._deadline):
            return False
        self._take_from_lazy()
        fit, low = self._fit, self._low
        starts = [*([fit[0].nodes] if fit else []), low[0].nodes] if seed else []
        part = self._deadline.part(share)
        # The programs have the other processor, unless there is little to expect from them.
        bound, threads = self._lazy.bound, 2 if self._lazy.far else 1
        found = anneal(self._problem, self._task.budget, part, starts=starts, target=bound, seed=seed, threads=threads)
        self.offer(found.nodes, "anneal")
        return self._fit is not fit or self._low is not low

    def _ask(self, name: str, share: float) -> None:
        if not self._lazy.closed and not self._stopped:
            part = self._deadline.part(share)
            answer = registry.get(name).solve(self._task.derive(deadline=part, reporter=Reporter()))
            self.offer(nodes_of(self._problem, tuple(answer.steps)), answer.solver or name)
