"""Building a sequence of nodes: each node runs after whatever it needs, and missing items are fetched just before.

Fetched means recomputed, or loaded if the item was stored in a pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from remat_planner.solvers.problem.reduced_graph import Problem


class SequenceBuilder:
    """Runs nodes one by one and knows which items can be read.

    Args:
        problem: the reduced graph.
        by_index: recompute the inputs of a node in execution order, rather than depth first.

    Attributes:
        sequence: the nodes so far.
        available: for each item whether it can be read now; clear an entry to release the item.
        stored: for each item in a pool the number of nodes that ran before it was stored.
        loads: the loads so far: the number of nodes that ran before, and the item.
    """

    def __init__(self, problem: Problem, *, by_index: bool) -> None:
        self.problem = problem
        self.sequence: list[int] = []
        self.available = [False] * problem.m
        self.stored: dict[int, int] = {}
        self.loads: list[tuple[int, int]] = []
        self._by_index = by_index
        self._reads = problem.reads
        self._writes = problem.writes
        self._producer: list[int] = problem.producer.tolist()
        self._base: list[int] = problem.base.tolist()
        self._in_place: dict[int, list[int]] = {}  # base: the in-place results on it
        for item in problem.in_place.nonzero()[0].tolist():
            self._in_place.setdefault(self._base[item], []).append(item)

    def run(self, node: int) -> None:
        """Run a node after whatever it needs."""
        # Repeated, because recomputing a base makes in-place results stale that the node reads too.
        while missing := self._missing(node):
            self._fetch(missing)
        self._execute(node)

    def fetch(self, item: int) -> None:
        """Compute an item unless it is available."""
        if not self._load(item) and not self.available[item]:
            self._fetch([item])

    def store(self, item: int) -> None:
        """Store an available item in a pool and release it."""
        self.stored.setdefault(item, len(self.sequence))
        self.available[item] = False

    def keep(self, held: Sequence[bool]) -> None:
        """Release the items that are not ``held``."""
        self.available = [available and held[item] and held[self._base[item]] for item, available in enumerate(self.available)]

    def _missing(self, node: int) -> list[int]:
        return [item for item in self._reads[node] if not self.available[item] and not self._load(item)]

    def _load(self, item: int) -> bool:
        """Load an item that is in a pool and not available; return whether that was so."""
        if item not in self.stored or self.available[item]:
            return False
        self.loads.append((len(self.sequence), item))
        self.available[item] = True
        return True

    def _execute(self, node: int) -> None:
        self.sequence.append(node)
        for item in self._writes[node]:
            self.available[item] = True
            for alias in self._in_place.get(item, ()):
                self.available[alias] = False

    def _fetch(self, items: Iterable[int]) -> None:
        order = self._nodes_for(items)
        for node in sorted(order) if self._by_index else order:
            # A recomputed base makes in-place results stale, even those that were available when ``order`` was set.
            while stale := self._missing(node):
                self._fetch(stale)
            if not all(self.available[item] for item in self._writes[node]):
                self._execute(node)

    def _nodes_for(self, items: Iterable[int]) -> list[int]:
        """The nodes to run for ``items``, inputs first."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(self._producer[item], False) for item in items]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((self._producer[item], False) for item in self._missing(node))
        return order
