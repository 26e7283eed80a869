"""The integer columns of the program of lazy moments: what is held at each moment, recomputed after it, and run early."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from remat_planner.solvers.lazy_moments.fused_nodes import followers, last_of
from remat_planner.solvers.lazy_moments.links import Links
from remat_planner.solvers.milp import MixedIntegerProgram
from remat_planner.solvers.problem import Problem


class Columns:
    """A program with its integer columns, to which rows are added. Window k is what runs after moment k, up to the next one.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        moments: nodes where memory is watched, ascending; not auxiliary.
        fuse: whether nodes that are recomputed only together share a column.
        links: what copies to pools may take; None for a program without copies.

    Attributes:
        program: minimises recomputation, in units of ``cost_unit`` seconds.
        held: for each moment the column of each item that may be held there.
        again: for each moment the column of each node that may be recomputed in its window.
        loaded: for each moment the column of each item that may be away then, with a copy in a pool, and loaded in its window.
        early: for each auxiliary node that may come late the column that says whether it runs at its own place.
        cost_of_early: the cost of those nodes: the objective counts them where they run, the step counts them anyway.
        useful: for each moment items that may be read after it, and nodes up to it that may have to run again.
        home: for each moment the column of each item that may be away then, and is loaded after it rather than computed again;
            filled by ``closure_rows``.
        following: fused nodes (``fused_nodes.followers``).
        bytes, room: bytes of each item, and of the budget without constants, in units of ``byte_unit`` bytes.
        producer: of each item.
    """

    def __init__(
        self, problem: Problem, budget: float, moments: Sequence[int], *, fuse: bool, links: Links | None = None
    ) -> None:
        self.problem = problem
        self.moments = tuple(moments)
        self.program = MixedIntegerProgram()
        # Units in which the largest cost and the budget are 1000, so that HiGHS's absolute tolerances suit them.
        self.cost_unit = max(float(problem.cost.max(initial=0.0)) / 1000, 1e-300)
        self.byte_unit = max((budget - problem.constant_bytes) / 1000, 1e-3)
        self.room = (budget - problem.constant_bytes) / self.byte_unit
        self.bytes: list[float] = (problem.bytes / self.byte_unit).tolist()
        self.producer: list[int] = problem.producer.tolist()
        self._cost: list[float] = (problem.cost / self.cost_unit).tolist()
        self.following = followers(problem) if fuse and links is None else {}
        self.links = links
        self.held: list[dict[int, int]] = []
        self.again: list[dict[int, int]] = []
        self.loaded: list[dict[int, int]] = []
        self.home: list[dict[int, int]] = []
        self.early: dict[int, int] = {}
        self.cost_of_early = 0.0
        self._choose_early()
        self.useful = [self._useful_after(t) for t in self.moments]
        for k in range(len(self.moments)):
            self._add_columns(k)

    def window_of(self, node: int) -> int:
        """The window in which a node first runs: k for (t_k, t_k+1], -1 up to the first moment."""
        return bisect_left(self.moments, node) - 1

    def available(self, k: int, item: int) -> dict[int, float]:
        """Columns whose sum says whether an item written up to moment k is available at some time in window k."""
        terms = {}
        if (held := self.held[k].get(item)) is not None:
            terms[held] = 1.0
        if (again := self.again[k].get(self.producer[item])) is not None:
            terms[again] = 1.0
        if (loaded := self.loaded[k].get(item)) is not None:
            terms[loaded] = 1.0
        return terms

    def _choose_early(self) -> None:
        """A column for each auxiliary node that some later window could run instead of its own."""
        problem = self.problem
        for node in range(problem.n - 1, -1, -1):
            if not problem.auxiliary[node]:
                continue
            window = self.window_of(node)
            readers = {reader for i in problem.writes[node] for reader in problem.readers[i]}
            if all(reader in self.early or self.window_of(reader) > window for reader in readers):
                self.early[node] = self.program.column(self._cost[node], integer=True)
                self.cost_of_early += self._cost[node]

    def _useful_after(self, t: int) -> tuple[set[int], set[int]]:
        """Items that may be read after moment ``t``, and nodes up to ``t`` that may have to run again after it."""
        problem = self.problem
        items: set[int] = set()
        nodes: set[int] = set()
        for node in range(t, -1, -1):
            needed = [i for i in problem.writes[node] if any(reader > t or reader in nodes for reader in problem.readers[i])]
            if self.following.get(node, t + 1) > t:
                items.update(needed)
            if needed and (not self.problem.pinned[node] or node in self.early):
                nodes.add(node)
        return items, nodes

    def _add_columns(self, k: int) -> None:
        t, (items, nodes) = self.moments[k], self.useful[k]
        self.held.append({i: self.program.column(integer=True) for i in sorted(items)})
        copied = () if self.links is None else self.links.items
        self.loaded.append(
            {i: self.program.column(integer=True) for i in sorted(items) if i in copied and self.producer[i] < t}
        )
        for i in items:
            if self.problem.lasting[i] and self.producer[i] <= t:
                self.program.fix(self.held[k][i], 1.0)
        runs: dict[int, list[int]] = {}
        for v in sorted(nodes):
            runs.setdefault(last_of(self.following, v, t), []).append(v)
        columns = {last: self.program.column(sum(self._cost[v] for v in run), integer=True) for last, run in runs.items()}
        self.again.append({v: columns[last] for last, run in runs.items() for v in run})
