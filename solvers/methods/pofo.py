"""``pofo``: the optimal combination of recomputation and offloading on a chain, on the cut points of a graph.

The dynamic program, in ``solvers/chain``, decides which stages save and which run without, and what of it is offloaded. Then
the transfers are placed as for all solvers that copy, and the simulator shows how much memory the model may be given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from remat_planner.schedules import Simulation, preference, simulate
from remat_planner.solvers.chain import (
    Action,
    Chain,
    Forward,
    Link,
    Segment,
    Stages,
    SweptSequence,
    in_slots,
    measure,
    offloading_ready,
    offloading_segments,
    persistent_actions,
    short_views,
    slots_of,
    sweep,
    table,
)
from remat_planner.solvers.compiling import COMPILING, in_time
from remat_planner.solvers.copies import CopyPlanner, timed
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.registry import get

# Stages of a chain, at most: the time grows with their cube.
_MOST_STAGES = 140
# Options of a stage: everything that its backward reads, or less by at least one such share.
_SHARES = 3
# Entries of the table of schedules without copies, at most; it has stages^2 x slots of them.
_MOST_ENTRIES = 6_000_000
# The model counts some memory twice and misses some. It is tried with these fractions of the budget at most and at least.
_MOST_ROOM, _LEAST_ROOM = 1.3, 0.6
# Budgets of the model that are tried on one chain.
_TRIES = 7


class Pofo(Solver):
    """The dynamic program of pofo, on every view of the graph as a chain, with the graph's first pool."""

    name = "pofo"
    description = "optimal recomputation and offloading of unequal chains (Beaumont et al. 2021), with options per stage"
    proves = "nothing for a graph; optimal in the model of the paper, where one direction of the link copies at a time"
    source = (
        "Beaumont, Eyraud-Dubois and Shilova, Efficient Combination of Rematerialization and Offloading for Training DNNs "
        "(NeurIPS 2021)"
    )
    copies = True

    def solve(self, task: Task) -> Answer:
        """The cheapest schedule over all views; on a graph without pools, nothing is offloaded."""
        if not in_time(task.deadline, compiled=offloading_ready()):
            note = f"nothing is copied: compiling the dynamic program takes {COMPILING:g} s, once; allow more time"
            return replace(get("rotor").solve(task.without_transfers()), note=note)
        search = _Search(task)
        if not search.feasible:
            for chain in short_views(Forward(task.problem), _MOST_STAGES):
                if not task.deadline.expired:
                    search.try_chain(chain)
        return search.answer()


class _Search:
    """The best schedule of all views so far."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._problem = task.problem
        self._planner = CopyPlanner(task.problem, task.budget)
        self._best: tuple[Simulation, tuple[int, ...], str] | None = None
        self._offer(task.problem.expand(range(task.problem.n)), "keeps everything")

    @property
    def feasible(self) -> bool:
        """Whether a schedule within the budget is known."""
        return self._best is not None and self._best[0].peak_bytes <= self._task.budget

    def answer(self) -> Answer:
        """The best schedule."""
        assert self._best is not None
        return Answer(self._best[1], note=self._best[2])

    def try_chain(self, chain: Chain) -> None:
        """Look for the largest budget of the model whose schedule keeps the real one, by bisection."""
        measured = measure(chain, _SHARES)
        room = max(1, self._planner.room)
        unit, slots = slots_of(measured.stages, room, _MOST_ROOM - 1, _MOST_ENTRIES)
        coarse = in_slots(measured.stages, unit)
        persistent = table(coarse, slots)
        backward = np.array([self._problem.cost[slice(*stage.backward)].sum() for stage in chain.stages])
        may_offload = self._may_offload(chain, measured.options)
        link = self._link(measured.stages, may_offload)
        low, high = _LEAST_ROOM, _MOST_ROOM
        for attempt in range(_TRIES):
            share = _MOST_ROOM if not attempt else (low + high) / 2
            if self._task.deadline.expired:
                return
            series, _ = offloading_segments(measured.stages, backward, persistent, unit, int(share * room), link, may_offload)
            fits = False
            if series:
                swept = sweep(chain, _actions(series, coarse, persistent), measured.options)
                fits = self._offer(self._steps(swept), f"{len(series)} segments on a {chain.words}")
            if share == _MOST_ROOM and fits == bool(series):
                return
            low, high = (share, high) if fits or not series else (low, share)

    def _offer(self, steps: tuple[int, ...], note: str) -> bool:
        """Simulate a schedule, keep it if it is the best so far, and return whether it is within the budget."""
        simulation = simulate(self._task.graph, steps)
        fits = simulation.peak_bytes <= self._task.budget
        best = self._best
        if best is None or preference(simulation, self._task.budget) < preference(best[0], self._task.budget):
            self._best = simulation, steps, note
            if fits:
                self._task.reporter.improved(simulation.seconds, simulation.peak_bytes)
        return fits

    def _steps(self, swept: SweptSequence) -> tuple[int, ...]:
        if not swept.stored:
            return self._problem.expand(swept.nodes)
        return self._planner.steps_of(timed(self._problem, swept.nodes, swept.stored, swept.loads, 0))

    def _may_offload(self, chain: Chain, options: Sequence[Sequence[Sequence[int]]]) -> NDArray[np.bool_]:
        """bool[stages, options + 1], as ``offloading_segments`` takes it."""
        copied = set(self._task.graph.copied)
        copyable = [bool(storages) and copied.issuperset(storages) for storages in self._problem.storages]
        stages = chain.stages
        may = np.zeros((len(stages), max(map(len, options)) + 1), dtype=np.bool_)
        for i in range(1, len(stages) if self._planner.pools else 0):
            inputs = all(copyable[item] for item in stages[i].inputs)
            may[i, 0] = inputs
            for k, saved in enumerate(options[i - 1]):
                may[i, k + 1] = inputs and all(copyable[item] for item in saved)
        return may

    def _link(self, stages: Stages, may_offload: NDArray[np.bool_]) -> Link:
        """The link of the first pool, whose budget counts only where it binds."""
        if not self._planner.pools:
            return Link(math.inf, math.inf, math.inf)
        pool = self._planner.pools[0]
        entering = np.concatenate((stages.inputs[1:, None], stages.saved[:-1]), axis=1)
        wanted = int(np.where(may_offload[1:], entering, 0).max(axis=1).sum())
        rounding = pool.block * self._problem.m  # more than the copies are rounded up by
        room = math.inf if wanted + rounding <= pool.budget else float(max(0, pool.budget - rounding))
        return Link(pool.outgoing.bytes_per_second, pool.incoming.bytes_per_second, room)


def _actions(series: Sequence[Segment], stages: Stages, persistent: NDArray[np.float32]) -> Iterator[Action]:
    """The actions of a series of segments, backward included."""
    last = len(stages.inputs)
    yield Action("snapshot", 0)
    for segment in series:
        for i in range(segment.begin, segment.end):
            yield Action("save", i, segment.option) if segment.option >= 0 else Action("forward", i)
            if i == segment.begin and segment.offloaded:
                yield Action("offload", i)
        if segment.end < last:
            yield Action("snapshot", segment.end)
    for segment in reversed(series):
        if segment.option >= 0:
            yield Action("backward", segment.begin)
        else:
            yield from persistent_actions(stages, persistent, segment.begin, segment.end - 1, segment.slots)
