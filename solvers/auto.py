"""Whatever works: lazy moments first, because they end with a proof; else every other method in turns until time is out.

The best schedule of all methods is kept, and the best bound; so the answer is never worse than any other solver's here. Lazy
moments and annealing help each other: annealing repairs what overflows between moments, and a good schedule shows where memory
binds and lets the program prune. They run side by side, since HiGHS and the compiled annealing both leave the interpreter free.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

from solvers import registry
from solvers.anneal import anneal, nodes_of
from solvers.base import ORDER_GIVEN, Answer, Deadline, Reporter, Solver, Task
from solvers.ilp import LazyMoments, Run, bound_note

# The share of the time that lazy moments get before the others have their turn.
_FIRST_SHARE = 0.35
# The share of what is left that a turn takes, in which lazy moments and annealing run side by side.
_TURN_SHARE = 0.5
# Of the time, what the quick methods get each at most, the two levels, and the search for the least budget that works.
_QUICK_SHARE, _LEVELS_SHARE, _LEAST_SHARE = 0.1, 0.3, 0.2
# Lazy moments need no help from the full program, and annealing has turns of its own.
_NOT_QUICK = ("auto", "ilp", "checkmate", "twolevel", "anneal")
# A turn shorter than this many seconds finds nothing.
_LEAST_TURN = 0.2
# How near to the largest budget known not to work the least one that works is looked for, as a fraction of it.
_LEAST_WITHIN = 0.01


class Auto(Solver):
    """``auto``."""

    name = "auto"
    description = "lazy moments first, then every other method in the time left; keeps the best schedule and the best bound"
    proves = "what lazy moments prove: a lower bound for all schedules that keep the given order of first runs"

    def solve(self, task: Task) -> Answer:
        """The best of all methods; where nothing fits, the schedule with the lowest peak."""
        search = _Search(task)
        for steps in task.start:
            search.offer(steps, "start")
        search.moments(task.deadline.part(_FIRST_SHARE))
        if not search.done:
            search.quick()
            search.levels(task.deadline.part(_LEVELS_SHARE))
        part = task.deadline if search.feasible else Deadline((1 - _LEAST_SHARE) * task.deadline.remaining)
        turn = 0
        while not search.done and part.remaining > _LEAST_TURN:
            search.side_by_side(part.part(_TURN_SHARE), seed=turn)
            turn += 1
        if not search.feasible:
            search.least()
        return search.answer()


class _Search:
    """The schedules and the bound found so far, and the turns of the methods."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem = task.problem
        self._lazy = LazyMoments(task.problem, task.budget, task.reporter)
        self._fit = (self._lazy.best, "none")
        self._low = (self._lazy.lowest, "none")

    @property
    def feasible(self) -> bool:
        """Whether a schedule within the budget is known."""
        return self._fit[0] is not None

    @property
    def done(self) -> bool:
        """Whether the best schedule is proven to be the best there is, or that there is none."""
        return self._lazy.closed

    def offer(self, steps: tuple[int, ...], name: str) -> None:
        """Keep op steps where they are better."""
        self._keep(self._lazy.offer(nodes_of(self._problem, steps)), name)

    def moments(self, deadline: Deadline) -> None:
        """A turn of lazy moments."""
        self._lazy.work(deadline)
        if self._lazy.best is not None:
            self._keep(self._lazy.best, "ilp")
        self._keep(self._lazy.lowest, "ilp")

    def quick(self) -> None:
        """The methods that do not need long."""
        for name in registry.available():
            if name not in _NOT_QUICK:
                self._ask(name, self._task.deadline.part(_QUICK_SHARE))

    def levels(self, deadline: Deadline) -> None:
        """A turn of the two levels."""
        self._ask("twolevel", deadline)

    def side_by_side(self, deadline: Deadline, *, seed: int) -> None:
        """A turn of lazy moments, and beside it annealing from the best schedule and from the one that almost fits."""
        starts = [run.nodes for run, _ in (self._fit, self._low) if run is not None]
        problem, budget, bound = self._problem, self._task.budget, self._lazy.bound
        with ThreadPoolExecutor(max_workers=1) as beside:
            annealing = beside.submit(anneal, problem, budget, deadline, starts=starts, target=bound, seed=seed)
            try:
                self.moments(deadline)
            except BaseException:
                deadline.end()
                raise
            if self.done:
                deadline.end()
            found = annealing.result()
        self._keep(self._lazy.offer(found.nodes), "anneal")

    def least(self) -> None:
        """Look for the least budget that works, by halves between one that does and one that does not."""
        problem, deadline = self._problem, self._task.deadline
        below = self._task.budget
        while deadline.remaining > _LEAST_TURN:
            above = self._low[0].simulation.peak_bytes
            if above - below <= max(1, _LEAST_WITHIN * below):
                return
            budget = (above + below) // 2
            lazy = LazyMoments(problem, budget)
            lazy.work(deadline.part(_TURN_SHARE / 2))
            self._keep(lazy.best or lazy.lowest, "ilp")
            if lazy.best is None and lazy.bound < math.inf:
                found = anneal(problem, budget, deadline.part(_TURN_SHARE / 2), starts=[self._low[0].nodes])
                self._keep(Run(found.nodes, problem.simulate(found.nodes)), "anneal")
            if self._low[0].simulation.peak_bytes > budget:
                below = budget

    def answer(self) -> Answer:
        """The best schedule with the best bound."""
        run, name = self._fit
        if run is None:
            run, name = self._low
        return Answer(
            steps=self._problem.expand(run.nodes),
            bound=self._lazy.bound,
            assumption=ORDER_GIVEN,
            note=bound_note(self._problem, self._task.budget, self._lazy.bound),
            solver=name,
        )

    def _ask(self, name: str, deadline: Deadline) -> None:
        if self.done:
            return
        answer = registry.get(name).solve(self._task.derive(deadline=deadline, reporter=Reporter()))
        self.offer(tuple(answer.steps), answer.solver or name)

    def _keep(self, run: Run, name: str) -> None:
        cost, peak = run.simulation.seconds, run.simulation.peak_bytes
        low = self._low[0].simulation
        if (peak, cost) < (low.peak_bytes, low.seconds):
            self._low = (run, name)
        best = self._fit[0]
        if peak <= self._task.budget and (best is None or cost < best.simulation.seconds):
            self._fit = (run, name)
