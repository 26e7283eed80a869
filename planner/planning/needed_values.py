"""The tensors that a step needs at one moment and that exceed a budget together: none of them can be left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from remat_planner.planner.errors import NeededValue
from remat_planner.schedules import Graph, Transfer, lifetimes, simulate
from remat_planner.solvers import Conflict, Solution, irreducible

_MOST_NAMED = 6
"""Tensors that a message names."""


@dataclass(frozen=True)
class Needed:
    """What is needed at once.

    Attributes:
        op: name of the op that runs then; None at the end of the step.
        values: the largest first.
        proven: every schedule needs it, of the class that the bound covers; else one does, that with the least peak found.
    """

    op: str | None
    values: tuple[NeededValue, ...]
    proven: bool

    @classmethod
    def of(cls, graph: Graph, solution: Solution, budget: int) -> Needed | None:
        """What keeps an infeasible ``solution`` from fitting ``budget``; None where constants and workspace alone do."""
        conflict = solution.conflict or _at_the_peak(graph, solution.minimum_steps, budget)
        if conflict is None or not conflict.storages:
            return None
        values = _described(graph, conflict)
        return cls(conflict.op, values, proven=solution.conflict is not None)

    def describe(self) -> str:
        """A sentence."""
        when = "At the end of the step" if self.op is None else f"While {self.op} runs"
        who = "every schedule needs" if self.proven else "the schedule with the least peak found has"
        named = "; ".join(map(str, self.values[:_MOST_NAMED]))
        more = len(self.values) - _MOST_NAMED
        rest = f"; and {more} more (error.values)" if more > 0 else ""
        one = "it" if len(self.values) == 1 else "any one of them"
        return f"{when}, {who} at once: {named}{rest}. Without {one} the rest would fit"


def _at_the_peak(graph: Graph, steps: tuple[int, ...], budget: int) -> Conflict | None:
    """What is resident at the peak of ``steps``, as far as it is needed to exceed ``budget``; None where it does not."""
    if not steps:
        return None
    simulation, pieces = simulate(graph, steps), lifetimes(graph, steps)
    moment = simulation.peak_step
    action = graph.actions[steps[moment]]
    alive = (pieces.birth <= moment) & (pieces.death >= moment) & (pieces.storage >= 0)
    sizes: dict[int, int] = {}
    for storage, size in zip(pieces.storage[alive].tolist(), pieces.bytes[alive].tolist(), strict=True):
        sizes[storage] = sizes.get(storage, 0) + size
    room = budget - (int(simulation.bytes[moment]) - sum(sizes.values()))
    if sum(sizes.values()) <= room:  # it is the device's allocator that needs more
        return None
    return Conflict(action.name, simulation.peak_bytes, irreducible(sizes, room), "")


def _described(graph: Graph, conflict: Conflict) -> tuple[NeededValue, ...]:
    reads, writes = _touched(graph, conflict.op)
    results = {graph.values[v].storage for v in graph.results}
    found = []
    for storage in conflict.storages:
        value = graph.values_on[storage][0]
        producer = graph.producer[value]
        op = None if producer is None else graph.ops[producer]
        if storage in writes:
            role = "computed"
        elif storage in reads:
            role = "read"
        elif storage in results:
            role = "gradient" if op is not None and op.phase == "backward" else "output"
        else:
            role = "retained"
        tensor = graph.values[value]
        found.append(
            NeededValue(
                name=tensor.name if op is None else op.name,
                bytes=graph.storages[storage].bytes,
                shape=tensor.shape,
                dtype=tensor.dtype,
                module="" if op is None else op.module,
                source="" if op is None else op.source,
                role=role,
            )
        )
    return tuple(found)


def _touched(graph: Graph, name: str | None) -> tuple[set[int], set[int]]:
    """The storages that an op reads, and those that it computes."""
    if name is None:
        return set(), set()
    action = graph.actions[graph.by_name[name]]
    if isinstance(action, Transfer):
        return {action.storage}, set()
    reads, writes = (_storages(graph, values) for values in (action.reads, action.writes))
    return reads, writes - reads


def _storages(graph: Graph, values: Iterable[int]) -> set[int]:
    return {graph.values[v].storage for v in values}
