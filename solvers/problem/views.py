"""Free views: ops that cost nothing, allocate nothing and only alias one storage.

Solvers do not see them. ``Views.restore`` puts them back into a sequence of the other ops, each just before its first reader
after its base was computed, so that no stale view keeps an old instance of the base alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from remat_planner.schedules import Graph


class Views:
    """The free views of a graph.

    Attributes:
        storage: the storage that each view aliases, by op index.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.storage = graph.free_views

    def restore(self, ops: Iterable[int]) -> tuple[int, ...]:
        """Steps for a sequence of ops and transfers without views: the same steps with the views that they need."""
        graph, producer, views = self._graph, self._graph.producer, self.storage
        steps: list[int] = []
        allocations = [0] * len(graph.storages)  # how often each storage has been allocated
        seen: dict[int, int] = {}  # view: the allocation of its storage that it last ran on

        def is_stale(view: int) -> bool:
            return seen.get(view, -1) != allocations[views[view]]

        def refresh(view: int) -> None:
            pending = [view]
            while pending:
                top = pending[-1]
                if not is_stale(top):
                    pending.pop()
                elif below := [p for v in graph.ops[top].reads if (p := producer[v]) in views and is_stale(p)]:
                    pending.extend(below)
                else:
                    pending.pop()
                    seen[top] = allocations[views[top]]
                    steps.append(top)

        for view in self._unread.get(_START, ()):
            refresh(view)
        ran: set[int] = set()
        for i in ops:
            if i >= len(graph.ops):
                transfer = graph.transfers[i - len(graph.ops)]
                steps.append(i)
                allocations[transfer.storage] += transfer.kind == "load"
                continue
            for value in graph.ops[i].reads:
                if (source := producer[value]) in views:
                    refresh(source)
            steps.append(i)
            for storage in graph.allocated[i]:
                allocations[storage] += 1
            if i not in ran:
                ran.add(i)
                for view in self._unread.get(i, ()):
                    refresh(view)
        return tuple(steps)

    @cached_property
    def _unread(self) -> dict[int, list[int]]:
        """Views that no op asks for in time (results, and those that nothing reads), by the op after whose first run they run.

        Views of constants run at the start.
        """
        graph = self._graph
        results = set(graph.results)
        read = {value for i, op in enumerate(graph.ops) if i not in self.storage for value in op.reads}
        origin: dict[int, int] = {}
        unread: dict[int, list[int]] = {}
        for view in self.storage:
            op = graph.ops[view]
            sources = [graph.producer[v] for v in op.reads if not graph.storages[graph.values[v].storage].constant]
            source = sources[0] if sources else None
            origin[view] = _START if source is None else origin.get(source, source)
            if results.intersection(op.writes) or not read.intersection(op.writes):
                unread.setdefault(origin[view], []).append(view)
        return unread


_START = -1
