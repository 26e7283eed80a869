"""A sequence of nodes as executions, from which recomputations are left out as long as memory suffices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from remat_planner.schedules import Simulation
from remat_planner.solvers.problem.reduced_graph import Problem

_GONE = -(2**62)
"""Bytes at the place of an execution that was left out."""


@dataclass(eq=False)
class _Instance:
    """An item as one execution wrote it: its bytes, the place of that execution, the places of its readers."""

    item: int
    size: int
    birth: int
    stays: bool
    readers: set[int] = field(default_factory=set)

    def death(self, end: int) -> int:
        """The last place at which it is resident; ``end`` is the last of the sequence."""
        return end if self.stays else max(self.readers, default=self.birth)


class Executions:
    """The executions of a sequence that runs; places are those in that sequence, also after some were left out.

    Args:
        problem: the reduced graph.
        nodes: the sequence.
        run: its simulation.
    """

    def __init__(self, problem: Problem, nodes: Sequence[int], run: Simulation) -> None:
        self._problem = problem
        self._nodes = nodes
        self._end = len(nodes) - 1
        self._bytes = run.bytes
        self._read: list[list[_Instance]] = []  # at each place
        self._written: list[list[_Instance]] = []  # at each place, but for items in another's memory
        self._before: dict[int, int] = {}  # the place of a recomputation, and of the same node's execution before it
        self._after: dict[int, int] = {}  # the reverse
        base, sizes, lasting = problem.base.tolist(), problem.bytes.tolist(), problem.lasting.tolist()
        shared = {item for pair in enumerate(base) if pair[0] != pair[1] for item in pair}
        self._in_place = {node for node in set(nodes) if not shared.isdisjoint(problem.writes[node])}
        latest: dict[int, int] = {}
        current: dict[int, _Instance] = {}
        for place, node in enumerate(nodes):
            read = list(dict.fromkeys(current[item] for item in problem.reads[node]))
            for instance in read:
                instance.readers.add(place)
            self._read.append(read)
            written = []
            for item in problem.writes[node]:
                if base[item] == item:
                    current[item] = _Instance(item, sizes[item], place, stays=False)
                    written.append(current[item])
                else:
                    current[item] = current[base[item]]
                if lasting[item] and node not in latest:
                    current[item].stays = True
            self._written.append(written)
            if node in latest:
                self._before[place], self._after[latest[node]] = latest[node], place
            latest[node] = place

    @property
    def nodes(self) -> list[int]:
        """The sequence without what was left out."""
        return [node for place, node in enumerate(self._nodes) if self._bytes[place] > _GONE // 2]

    def recomputations(self) -> list[int]:
        """The places of recomputations, the longest first, later ones before earlier."""
        return sorted(self._before, key=lambda place: (-self._problem.cost[self._nodes[place]], -place))

    def leave_out(self, place: int, budget: int) -> None:
        """Leave out the recomputation at ``place`` and what is made only for it, if memory then stays within ``budget`` bytes.

        Its readers read what the execution before it wrote. Nodes that write in place stay, as do those whose results they
        change.
        """
        if place not in self._before:
            return
        left_out = self._unread_without(place)
        if any(self._nodes[out] in self._in_place for out in left_out):
            return
        level = self._bytes + self._change(place, left_out)
        level[list(left_out)] = _GONE
        if level.max() <= budget:
            self._bytes = level
            self._relink(place, left_out)

    def _unread_without(self, place: int) -> set[int]:
        """``place`` and the recomputations that nothing reads without it."""
        left_out, waiting = {place}, [place]
        while waiting:
            for instance in self._read[waiting.pop()]:
                made = instance.birth
                if made in left_out or made not in self._before or made == self._before[place]:
                    continue
                if all(written.readers <= left_out and not written.stays for written in self._written[made]):
                    left_out.add(made)
                    waiting.append(made)
        return left_out

    def _change(self, place: int, left_out: Collection[int]) -> np.ndarray:
        """int64[length]: by how many bytes memory changes at each place."""
        change = np.zeros(self._end + 2, dtype=np.int64)

        def add(first: int, last: int, size: int) -> None:
            if first <= last:
                change[first] += size
                change[last + 1] -= size

        for out in left_out:
            for instance in self._written[out]:
                add(out, instance.death(self._end), -instance.size)
            if out not in self._after:
                add(self._before[out] + 1, out, -int(self._problem.replay[self._nodes[out]]))
        longer = {}
        for before, instance in self._pairs(place):
            readers = (before.readers | instance.readers).difference(left_out)
            longer[before] = self._end if before.stays else max(readers, default=before.birth)
        for instance in {instance for out in left_out for instance in self._read[out]}:
            if instance.birth not in left_out and instance not in longer:
                readers = instance.readers.difference(left_out)
                longer[instance] = self._end if instance.stays else max(readers, default=instance.birth)
        for instance, death in longer.items():
            before_that = instance.death(self._end)
            add(before_that + 1, death, instance.size)
            add(death + 1, before_that, -instance.size)
        return np.cumsum(change[:-1])

    def _pairs(self, place: int) -> list[tuple[_Instance, _Instance]]:
        """What the recomputation at ``place`` writes, each with what its readers would read without it."""
        earlier = {instance.item: instance for instance in self._written[self._before[place]]}
        return [(earlier[instance.item], instance) for instance in self._written[place]]

    def _relink(self, place: int, left_out: Collection[int]) -> None:
        """Note who reads what, and which executions follow each other, without those that are left out."""
        for out in left_out:
            for instance in self._read[out]:
                instance.readers.discard(out)
        for before, instance in self._pairs(place):
            before.readers |= instance.readers
            for reader in instance.readers:
                self._read[reader] = [before if read is instance else read for read in self._read[reader]]
        for out in left_out:
            earlier, later = self._before.pop(out), self._after.pop(out, None)
            del self._after[earlier]
            if later is not None:
                self._before[later], self._after[earlier] = earlier, later
