"""Rows of the program that limit copies: the links carry only so many bytes between two points of the step.

A copy leaves between the node that writes the item and the moment at which the item is away. It comes back between that moment
and the next node that reads it. Time between two nodes is that of the nodes between them, plus the *delay*: recomputation, and
stalls, which the objective counts like recomputation. Every schedule in the given order satisfies these rows whatever it
recomputes, because they ask for less than it does: latencies, the slowing of ops beside copies, and who shares which link are
left out.
"""

from __future__ import annotations

import math

import numpy as np

from remat_planner.solvers.lazy_moments.columns import Columns
from remat_planner.solvers.lazy_moments.links import Links

# Points of the step, per window, for which there is a row.
_POINTS = 32


def add_copy_rows(columns: Columns) -> None:
    """Add them for the whole step; nothing where the graph has no pools."""
    if columns.links is not None and columns.moments:
        _CopyRows(columns, columns.links).add()


class _CopyRows:
    """Rows over the columns ``loaded``; window -1 is what runs up to the first moment."""

    def __init__(self, columns: Columns, links: Links) -> None:
        self.columns, self.links, self.program = columns, links, columns.program
        self.problem = columns.problem
        self.moments = columns.moments
        unit = columns.cost_unit
        self.after = np.concatenate(([0.0], np.cumsum(self.problem.cost))) / unit  # time at which each node begins
        self.most = links.longest / unit
        self.delay = [self._delay(k) for k in range(-1, len(self.moments))]

    def add(self) -> None:
        columns, links = self.columns, self.links
        stored: list[dict[int, int]] = []
        for loaded in columns.loaded:
            before = stored[-1] if stored else {}
            now = {i: self.program.column() for i in loaded}
            for i, column in now.items():
                self.program.at_least({column: 1.0, loaded[i]: -1.0}, 0.0)
                if i in before:
                    self.program.at_least({column: 1.0, before[i]: -1.0}, 0.0)
            for i, home in (columns.home[len(stored)] if columns.home else {}).items():
                self.program.at_least({now[i]: 1.0, home: -1.0}, 0.0)
            stored.append(now)
            # In units of the budget, like the rows of the device.
            sizes = {column: columns.bytes[i] for i, column in loaded.items() if columns.bytes[i]}
            self.program.at_most(sizes, links.budget / columns.byte_unit)
        for k in range(len(self.moments)):
            if math.isfinite(links.outgoing):
                self._add_stores(k, stored)
            if math.isfinite(links.incoming):
                self._add_loads(k)

    def _delay(self, window: int) -> int:
        """A column: the time that a window takes beyond the nodes that run in it for the first time."""
        columns, program = self.columns, self.program
        stall = program.column(1.0, 0.0, self.most)
        delay = program.column(0.0, 0.0, 2 * self.most)
        terms = {stall: 1.0, delay: -1.0}
        if window >= 0:
            for node, column in columns.again[window].items():
                terms[column] = terms.get(column, 0.0) + float(self.problem.cost[node]) / columns.cost_unit
        program.at_least(terms, 0.0)
        return delay

    def _time(self, begin: float, end: float, first: int, last: int) -> tuple[dict[int, float], float]:
        """Minus the delays of windows ``first`` to ``last``, and the time of first runs: the right side of a row."""
        return {self.delay[k + 1]: -1.0 for k in range(first, last + 1)}, end - begin

    def _add_stores(self, k: int, stored: list[dict[int, int]]) -> None:
        """What is away at moment k, and was written from some node on, has left since."""
        columns, t = self.columns, self.moments[k]
        seconds = {i: float(self.problem.bytes[i]) / self.links.outgoing / columns.cost_unit for i in stored[k]}
        for point in sorted({int(p) for p in np.linspace(0, t, _POINTS, endpoint=False)} if t else ()):
            terms = {column: seconds[i] for i, column in stored[k].items() if columns.producer[i] >= point}
            if terms:
                delays, time = self._time(self.after[point + 1], self.after[t], columns.window_of(point), k - 1)
                self.program.at_most({**terms, **delays}, time)
        if k:
            terms = {column: seconds[i] for i, column in stored[k].items()}
            terms |= {stored[k - 1][i]: -seconds[i] for i in stored[k] if i in stored[k - 1]}
            delays, time = self._time(self.after[self.moments[k - 1]], self.after[t], k - 1, k - 1)
            self.program.at_most({**terms, **delays}, time)

    def _add_loads(self, k: int) -> None:
        """What comes back after moment k for a node up to some point has come by then."""
        columns, n = self.columns, self.problem.n
        begin = self.after[self.moments[k] + 1]
        ends = [*self.moments[k + 1 :], n]
        demands: list[tuple[int, int, float]] = []
        home = self._demands(k, columns.home[k]) if columns.home else []
        for last, end in enumerate(ends, k):
            demands += self._demands(last, columns.loaded[last])
            for point in sorted({int(p) for p in np.linspace(self.moments[last], end, _POINTS + 1)[1:]}):
                for group in (demands, home):
                    if terms := {column: seconds for demand, column, seconds in group if demand <= point}:
                        delays, time = self._time(begin, self.after[point], k, last)
                        self.program.at_most({**terms, **delays}, time)

    def _demands(self, k: int, of: dict[int, int]) -> list[tuple[int, int, float]]:
        """For each item of ``of`` the next node after moment k that reads it, its column, and the seconds of its load."""
        columns, t, n = self.columns, self.moments[k], self.problem.n
        rows = []
        for i, column in of.items():
            demand = next((r for r in self.problem.readers[i] if r > t and r not in columns.early), n)
            rows.append((demand, column, float(self.problem.bytes[i]) / self.links.incoming / columns.cost_unit))
        return rows
