"""From decisions to steps, with the time and memory that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from remat_planner.solvers.copies import kernel
from remat_planner.solvers.copies.gaps import COPY, Gaps, Ints
from remat_planner.solvers.problem import Problem


@dataclass(frozen=True)
class Planned:
    """What decisions come to.

    Attributes:
        decisions: int64[gaps]; see ``gaps``.
        seconds: of the step, stalls included.
        excess: bytes over the budget, summed over all positions; 0 where the decisions fit. inf, as ``seconds``, where copies
            exceed the budget of a pool, or recomputation grows beyond reason.
        peak_bytes: at the peak, constants included.
    """

    decisions: Ints
    seconds: float
    excess: float
    peak_bytes: int

    @property
    def rank(self) -> tuple[float, float]:
        """A sort key: the best has the least."""
        return self.excess, self.seconds


class CopyPlanner:
    """Turns decisions about one problem under one budget into sequences.

    Args:
        problem: the reduced graph, which has pools.
        budget: bytes, constants included.
    """

    def __init__(self, problem: Problem, budget: int) -> None:
        self.problem = problem
        self.pools = problem.graph.pools
        self.gaps = Gaps.of(problem)
        self.budget = budget
        sizes = [[problem.graph.storages[s].bytes for s in storages] for storages in problem.storages]
        taken = [[sum(map(pool.rounded, of)) for of in sizes] for pool in self.pools]
        self._pool_bytes = np.array(taken, dtype=np.int64).reshape(len(self.pools), problem.m)
        channels = [(pool.outgoing, pool.incoming) for pool in self.pools]
        self._wiring = kernel.Wiring(
            cost=problem.cost,
            workspace=problem.workspace,
            replay=problem.replay,
            auxiliary=problem.auxiliary,
            closed=problem.outside & np.append(False, problem.outside[:-1]),
            read_ptr=problem.read_ptr,
            read_items=problem.read_items,
            write_ptr=problem.write_ptr,
            write_items=problem.write_items,
            bytes=problem.bytes,
            base=problem.base,
            producer=problem.producer,
            lasting=problem.lasting,
            gap_begin=self.gaps.begin,
            gap_item=self.gaps.item,
            pool_bytes=self._pool_bytes,
            pool_budgets=np.array([pool.budget for pool in self.pools], dtype=np.int64),
            rates=np.array([[c.bytes_per_second for c in both] for both in channels], dtype=np.float64).reshape(-1, 2),
            latencies=np.array([[c.latency for c in both] for both in channels], dtype=np.float64).reshape(-1, 2),
        )

    @cached_property
    def room(self) -> int:
        """Bytes of the budget that constants leave."""
        return self.budget - self.problem.constant_bytes

    def plan(self, decisions: Ints) -> Planned:
        """Time and memory of ``decisions``."""
        seconds, excess, peak = kernel.evaluate(self._wiring, decisions, self.room)
        return Planned(decisions, seconds, excess, peak + self.problem.constant_bytes)

    def steps(self, decisions: Ints) -> tuple[int, ...]:
        """The steps for ``decisions``, transfers and views included."""
        return self.steps_of(kernel.sequence(self._wiring, decisions))

    def steps_of(self, sequence: kernel.Sequence) -> tuple[int, ...]:
        """The steps for a sequence of nodes with copies, each transfer in its place."""
        problem, graph = self.problem, self.problem.graph
        placed = kernel.places(self._wiring, sequence, self.room)
        issued: list[tuple[int, int, int, int, int, int]] = []  # position, kind, a tie, item, pool, which of ``CopySteps``
        for k, (item, pool, _, _) in enumerate(sequence.stores.tolist()):
            issued.append((int(placed.store[k]), 0, k, item, pool, 0))
            issued.append((int(placed.release[k]), 1, k, item, pool, 1))
        for k, (item, pool, use, _, _) in enumerate(sequence.loads.tolist()):
            issued.append((int(placed.load[k]), 2, use * len(sequence.loads) + k, item, pool, 2))
        issued.sort()
        steps: list[int] = []
        pending = 0
        for position, node in enumerate([*sequence.nodes.tolist(), -1]):
            while pending < len(issued) and issued[pending][0] == position:
                *_, item, pool, which = issued[pending]
                steps += [graph.copy_steps(s, self.pools[pool].name)[which] for s in problem.storages[item]]
                pending += 1
            if node >= 0:
                steps.append(int(problem.ops[node]))
        return problem.with_views(steps)

    def unless_all_fits(self, policy: Callable[[CopyPlanner], Ints]) -> tuple[int, ...]:
        """The steps that a policy decides; those that keep everything where that fits."""
        planned = self.plan(self.gaps.keep_all(self.problem.n))
        return self.steps(policy(self) if planned.excess else planned.decisions)

    def copying(self, decisions: Ints, chosen: Ints) -> Ints:
        """``decisions``, with the ``chosen`` gaps copied, each to the first pool that has room, where one has."""
        decisions = decisions.copy()
        left = [pool.budget for pool in self.pools]
        for gap in chosen[self.gaps.may_be_copied[chosen]].tolist():
            for number in range(len(self.pools)):
                if (size := int(self._pool_bytes[number, self.gaps.item[gap]])) <= left[number]:
                    left[number] -= size
                    decisions[gap] = COPY + number
                    break
        return decisions
