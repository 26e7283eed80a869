"""The ways to run one region, from retaining everything to retaining as little as possible: schedules of its ops.

Two numbers of a region matter to the rest of the step: the bytes that it retains from its forward to its backward, and its peak
in its own backward. We solve under limits on the retained bytes alone and on the peak. With pools, we solve again with copies:
these lie inside one call of the region, so the device waits where its other ops do not hide them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

from remat_planner.schedules import Graph, lifetimes, simulate
from remat_planner.solvers import Deadline, solve

_RETAINED_SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.08, 0.03, 0.0)
"""Limits on the retained bytes, as shares of those without recomputation; finer where recomputation is dear."""

_PEAK_SHARES = (0.85, 0.7, 0.5, 0.3, 0.0)
"""Limits on the peak, as shares of the way from the least to the one without recomputation."""

_SECONDS_PER_OP = 0.005
"""Seconds for one solve, per op of the region. A limit that nothing fits takes all of them, and a plan makes 13 solves."""

_SOLVER = "ilp"
"""Regions are small enough for the exact solver."""

_COPYING_SOLVER = "offload"
_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class RegionOption:
    """One schedule of a region, in bytes beyond its parameters and inputs.

    Attributes:
        steps: op indices of the region's graph.
        seconds: of its ops, recomputation included.
        held: bytes from the end of its forward to the start of its backward.
        forward: highest bytes during its forward.
        backward: highest bytes during its backward.
        pools: bytes that its copies take in each pool of the graph, in their order.
    """

    steps: tuple[int, ...]
    seconds: float
    held: int
    forward: int
    backward: int
    pools: tuple[int, ...] = ()

    @property
    def copies(self) -> bool:
        """Whether anything leaves for a pool."""
        return any(self.pools)


@dataclass(frozen=True)
class RegionGraph:
    """The graph of a region as a part of the step: what it returns and the gradients that arrive belong to the rest."""

    graph: Graph

    @classmethod
    def of(cls, graph: Graph) -> RegionGraph:
        """From ``graph``, which was captured with a gradient arriving at every output."""
        boundary = next(i for i, op in enumerate(graph.ops) if op.outside)
        outputs = {v for v in graph.results if (graph.producer[v] or 0) < boundary}
        ops = list(graph.ops)
        ops[boundary] = replace(ops[boundary], reads=tuple(dict.fromkeys((*ops[boundary].reads, *sorted(outputs)))))
        results = tuple(v for v in graph.results if v not in outputs and v not in ops[boundary].writes)
        return cls(replace(graph, ops=tuple(ops), results=results, update=0))

    @cached_property
    def boundary(self) -> int:
        """The op between forward and backward, which stands for the rest of the step."""
        return next(i for i, op in enumerate(self.graph.ops) if op.outside)

    def option(self, steps: tuple[int, ...]) -> RegionOption:
        """The option that runs ``steps``."""
        simulation, pieces = simulate(self.graph, steps), lifetimes(self.graph, steps)
        boundary = steps.index(self.boundary)
        across = (pieces.birth < boundary) & (pieces.death > boundary)
        live = simulation.bytes - self.graph.constant_bytes
        return RegionOption(
            steps=steps,
            seconds=simulation.seconds,
            held=int(pieces.bytes[across].sum()),
            forward=int(live[:boundary].max(initial=0)),
            backward=int(live[boundary + 1 :].max(initial=0)),
            pools=tuple(simulation.pool_peaks.get(pool.name, 0) for pool in self.graph.pools),
        )

    def options(self, deadline: Deadline) -> tuple[RegionOption, ...]:
        """The options that no other one beats or equals in every number, by seconds; the first retains everything.

        With pools, options that copy come last. There are none where the search for them is not compiled, and the deadline
        leaves no time for that.
        """
        graph = self.graph
        everything = self.option(tuple(range(len(graph.ops))))
        simulation = simulate(graph, everything.steps)
        peak = simulation.peak_bytes
        options = [everything]
        # If the rest of the step takes as much as the region's whole peak, the backward always fits, and only the retained
        # bytes are limited.
        ops = list(graph.ops)
        ops[self.boundary] = replace(ops[self.boundary], workspace=peak)
        limited_at_boundary = replace(graph, ops=tuple(ops))
        at_boundary = int(simulation.bytes[self.boundary]) - everything.held
        for solver in (_SOLVER, _COPYING_SOLVER) if self._can_copy(peak, deadline) else (_SOLVER,):
            for share in _RETAINED_SHARES:
                limit = at_boundary + peak + int(share * everything.held)
                options += self._solved(limited_at_boundary, limit, solver, deadline)
            least = min(max(option.forward, option.backward) for option in options) // 2
            for share in _PEAK_SHARES:
                limit = graph.constant_bytes + least + int(share * (peak - graph.constant_bytes - least))
                options += self._solved(graph, limit, solver, deadline)
        return _undominated(options)

    def _can_copy(self, peak: int, deadline: Deadline) -> bool:
        """Whether options that copy can be found. Compiles the search: where all fits, it has nothing else to do."""
        if not self.graph.pools or deadline.expired:
            return False
        note = solve(self.graph, peak, solver=_COPYING_SOLVER, time_limit=deadline.remaining).note
        if note:
            _log.warning("a region is planned without copies: %s", note)
        return not note

    def _solved(self, graph: Graph, limit: int, solver: str, deadline: Deadline) -> list[RegionOption]:
        seconds = min(_SECONDS_PER_OP * len(graph.ops), deadline.remaining)
        solution = solve(graph, max(limit, 1), solver=solver, time_limit=seconds)
        steps = solution.steps or solution.minimum_steps
        return [self.option(tuple(steps))] if steps else []


def _undominated(options: list[RegionOption]) -> tuple[RegionOption, ...]:
    def numbers(option: RegionOption) -> tuple[float, ...]:
        return option.seconds, option.held, option.forward, option.backward, *option.pools

    def dominates(one: RegionOption, other: RegionOption) -> bool:
        return all(a <= b for a, b in zip(numbers(one), numbers(other), strict=True))

    distinct = list({numbers(option): option for option in reversed(options)}.values())
    best = [one for one in distinct if not any(other is not one and dominates(other, one) for other in distinct)]
    return tuple(sorted(best, key=lambda option: (option.copies, numbers(option))))
