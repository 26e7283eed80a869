"""What can be kept of one region and what it costs: options, each a schedule of its ops.

Of a region it matters to the others how many bytes it holds from its forward to its backward, and to the moment of its own
backward how many it takes there. So the budgets that it is solved for bound the one with the other left free, and both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from remat_planner.schedules import Graph, lifetimes, simulate
from remat_planner.solvers import Deadline, solve

_HELD = (0.75, 0.5, 0.35, 0.25, 0.15, 0.08, 0.03, 0.0)  # shares of what the region holds without recomputation
_PEAKS = (0.85, 0.7, 0.5, 0.3, 0.0)  # shares of its own peak above the least
_SECONDS_PER_OP = 0.005  # for one option; where nothing fits, a solver looks for as long as it may
_SOLVER = "ilp"


@dataclass(frozen=True)
class Option:
    """One schedule of a region, in bytes beyond its parameters and inputs.

    Attributes:
        steps: op indices of the region's graph.
        seconds: of its ops, recomputation included.
        held: bytes from the end of its forward to the start of its backward.
        forward: highest bytes during its forward.
        backward: highest bytes during its backward.
    """

    steps: tuple[int, ...]
    seconds: float
    held: int
    forward: int
    backward: int


@dataclass(frozen=True)
class Part:
    """The graph of a region as part of a larger step: outputs and arriving gradients are not its own to hold."""

    graph: Graph

    @classmethod
    def of(cls, graph: Graph) -> Part:
        """``graph`` was captured with a gradient arriving at every output."""
        boundary = next(i for i, op in enumerate(graph.ops) if op.outside)
        made_before = {v for v in graph.results if (graph.producer[v] or 0) < boundary}
        outputs = sorted(v for v in made_before)
        ops = list(graph.ops)
        ops[boundary] = replace(ops[boundary], reads=tuple(dict.fromkeys((*ops[boundary].reads, *outputs))))
        results = tuple(v for v in graph.results if v not in made_before and v not in ops[boundary].writes)
        return cls(replace(graph, ops=tuple(ops), results=results, update=0))

    @cached_property
    def boundary(self) -> int:
        """The op between forward and backward."""
        return next(i for i, op in enumerate(self.graph.ops) if op.outside)

    def option(self, steps: tuple[int, ...]) -> Option:
        """``steps`` in numbers."""
        run, pieces = simulate(self.graph, steps), lifetimes(self.graph, steps)
        at = steps.index(self.boundary)
        across = (pieces.birth < at) & (pieces.death > at)
        live = run.bytes - self.graph.constant_bytes
        return Option(
            steps=steps,
            seconds=run.seconds,
            held=int(pieces.bytes[across].sum()),
            forward=int(live[:at].max(initial=0)),
            backward=int(live[at + 1 :].max(initial=0)),
        )

    def options(self, deadline: Deadline) -> tuple[Option, ...]:
        """Options from keeping everything, the first, to holding as little as can be; no other is worse in every number."""
        graph = self.graph
        everything = self.option(tuple(range(len(graph.ops))))
        found = [everything]
        peak = simulate(graph, everything.steps).peak_bytes
        at_boundary = int(simulate(graph, everything.steps).bytes[self.boundary]) - everything.held
        ops = list(graph.ops)
        ops[self.boundary] = replace(ops[self.boundary], workspace=peak)
        roomy = replace(graph, ops=tuple(ops))  # a moment of the step that leaves the backward room, so that what is held binds
        for share in _HELD:
            found += self._solved(roomy, at_boundary + peak + int(share * everything.held), deadline)
        least = min(max(option.forward, option.backward) for option in found) // 2
        for share in _PEAKS:
            found += self._solved(
                graph, graph.constant_bytes + least + int(share * (peak - graph.constant_bytes - least)), deadline
            )
        return _undominated(found)

    def _solved(self, graph: Graph, limit: int, deadline: Deadline) -> list[Option]:
        solution = solve(
            graph, max(limit, 1), solver=_SOLVER, time_limit=min(_SECONDS_PER_OP * len(graph.ops), deadline.remaining)
        )
        steps = solution.steps or solution.minimum_steps
        return [self.option(tuple(steps))] if steps else []


def _undominated(options: list[Option]) -> tuple[Option, ...]:
    def numbers(option: Option) -> tuple[float, int, int, int]:
        return option.seconds, option.held, option.forward, option.backward

    distinct = list({numbers(option): option for option in reversed(options)}.values())
    return tuple(
        sorted(
            (
                one
                for one in distinct
                if not any(
                    other is not one and all(a <= b for a, b in zip(numbers(other), numbers(one), strict=True))
                    for other in distinct
                )
            ),
            key=numbers,
        )
    )
