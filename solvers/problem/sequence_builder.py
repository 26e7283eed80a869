"""From a decision at a few moments to a sequence of nodes: everything is computed again just before it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from remat_planner.solvers.problem.reduced_graph import Problem


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
