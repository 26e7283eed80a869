"""From a decision at a few moments to a sequence of nodes: everything is computed again just before it is needed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from solvers.moments import Decision
from solvers.problem import Problem


class Emitter:
    """Runs nodes one by one and remembers which items could be read now.

    Args:
        problem: the reduced graph.
        by_index: run what must run again before a node in execution order, rather than depth first.
    """

    def __init__(self, problem: Problem, *, by_index: bool) -> None:
        self.problem = problem
        self.sequence: list[int] = []
        self._by_index = by_index
        self._reads = problem.reads
        self._writes = problem.writes
        self._producer: list[int] = problem.producer.tolist()
        self._base: list[int] = problem.base.tolist()
        self._in_place: dict[int, list[int]] = {}
        for i in problem.in_place.nonzero()[0].tolist():
            self._in_place.setdefault(self._base[i], []).append(i)
        self.there = [False] * problem.m

    def run(self, node: int) -> None:
        """Run a node after whatever it needs."""
        # More than once: computing a base again makes the in-place results on it stale that the node also reads.
        while missing := [i for i in self._reads[node] if not self.there[i]]:
            self._fetch(missing)
        self._execute(node)

    def fetch(self, item: int) -> None:
        """Have an item computed unless it is there."""
        if not self.there[item]:
            self._fetch([item])

    def keep(self, held: Sequence[bool]) -> None:
        """Forget what is not held."""
        self.there = [there and held[i] and held[self._base[i]] for i, there in enumerate(self.there)]

    def _execute(self, node: int) -> None:
        self.sequence.append(node)
        for i in self._writes[node]:
            self.there[i] = True
            for alias in self._in_place.get(i, ()):
                self.there[alias] = False

    def _fetch(self, items: Iterable[int]) -> None:
        order = self._missing(items)
        for node in sorted(order) if self._by_index else order:
            # Computing a base again makes the in-place results on it stale, also those that were there when we looked.
            while stale := [i for i in self._reads[node] if not self.there[i]]:
                self._fetch(stale)
            if not all(self.there[i] for i in self._writes[node]):
                self._execute(node)

    def _missing(self, items: Iterable[int]) -> list[int]:
        """The nodes to run so that ``items`` are there, inputs first."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(self._producer[i], False) for i in items]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((self._producer[i], False) for i in self._reads[node] if not self.there[i])
        return order


def emit(problem: Problem, decision: Decision, *, by_index: bool = False) -> list[int]:
    """The sequence for ``decision``. Its memory is the decision's at the moments, and to be judged between them."""
    emitter = Emitter(problem, by_index=by_index)
    at = {t: k for k, t in enumerate(decision.moments)}
    lasting = problem.lasting.tolist()
    loss = [node for node in range(problem.n) if problem.outside[node]]
    for node in range(problem.n):
        if node in decision.late:
            continue
        k = at.get(node)
        if k:  # what the window computes for the next moment and nobody asked for so far
            for i in sorted(decision.held[k]):
                if int(problem.producer[i]) in decision.again[k - 1]:
                    emitter.fetch(i)
        if loss and node == loss[0]:  # nothing may be computed again between the ops of the loss
            for i in sorted({i for other in loss for i in problem.reads[other] if problem.producer[i] < node}):
                emitter.fetch(i)
        emitter.run(node)
        if k is not None:
            held = decision.held[k].union(*(problem.reads[other] for other in loss if other > node >= loss[0]))
            emitter.keep([lasting[i] or i in held for i in range(problem.m)])
    ran = set(emitter.sequence)
    for node in sorted(decision.late - ran):
        emitter.run(node)
    return emitter.sequence


def observe(problem: Problem, nodes: Sequence[int], moments: Sequence[int]) -> Decision:
    """What a sequence decides at ``moments``: the inverse of ``emit``."""
    at = {t: k for k, t in enumerate(moments)}
    current: list[int] = [-1] * problem.m
    instances: list[tuple[int, int]] = []
    ends: list[int] = []
    position = [len(nodes)] * len(moments)
    again: list[set[int]] = [set() for _ in moments]
    late: set[int] = set()
    seen: set[int] = set()
    window = -1
    for step, node in enumerate(nodes):
        if window >= 0 and node <= moments[window]:
            again[window].add(node)
            if node not in seen:
                late.add(node)
        if node in at and node not in seen:
            window = at[node]
            position[window] = step
        for i in problem.reads[node]:
            ends[current[i]] = step
        for i in problem.writes[node]:
            current[i] = len(instances)
            instances.append((i, step))
            ends.append(len(nodes) if problem.lasting[i] and node not in seen else step)
        seen.add(node)
    held: list[set[int]] = [set() for _ in moments]
    for (i, birth), end in zip(instances, ends, strict=True):
        for k in range(bisect_left(position, birth), bisect_right(position, end)):
            held[k].add(i)
    return Decision(tuple(moments), tuple(map(frozenset, held)), tuple(map(frozenset, again)), frozenset(late))
