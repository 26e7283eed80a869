"""Lower bounds that do not rest on the accuracy of a solver: its multipliers are only a hint, weak duality does the rest.

At a moment, whatever later nodes need is either in memory or computed again, with what it needs in turn: a closure with one
knapsack row. Its linear relaxation bounds every schedule that keeps the given order of first runs, whatever it recomputes and
however often; auxiliary nodes may come late. (A bound that only lets forward nodes be recomputed would be higher, and wrong
where recomputing a gradient pays.)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from remat_planner.solvers.lazy_moments.decision import Decision
from remat_planner.solvers.lazy_moments.fused_nodes import followers, last_of
from remat_planner.solvers.milp import Outcome, Program, Watch
from remat_planner.solvers.problem import Problem


def closure_bound(master: Master, *, seconds: float = 10.0) -> float:
    """Seconds that no schedule within the program's budget beats; inf where HiGHS finds the relaxation infeasible.

    Args:
        master: the program for the moments at whose first run memory is watched, without margins.
        seconds: time limit; when it is reached, the bound says nothing more than the time without recomputation.
    """
    return master.problem.seconds + master.certified(master.solve(seconds=seconds, gap=0.0, relax=True))


class Master:
    """The program for given moments.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        moments: nodes where memory is watched, ascending; not auxiliary.
        inside: pairs (node, again): watch memory while ``again`` is computed in the window that ends with ``node`` or holds it.
        margins: bytes to leave free at some moments. The optimum is then no bound.
    """

    def __init__(
        self,
        problem: Problem,
        budget: float,
        moments: Sequence[int],
        *,
        inside: Iterable[tuple[int, int]] = (),
        margins: Mapping[int, int] | None = None,
    ) -> None:
        self.problem = problem
        self.moments = tuple(moments)
        self._margins = margins or {}
        self.program = Program()
        self._cost_unit = max(float(problem.cost.max(initial=0.0)) / 1000, 1e-300)
        self._byte_unit = max((budget - problem.constant_bytes) / 1000, 1e-3)
        self._cost = (problem.cost / self._cost_unit).tolist()
        self._room = (budget - problem.constant_bytes) / self._byte_unit
        self._bytes = (problem.bytes / self._byte_unit).tolist()
        self._producer = problem.producer.tolist()
        self._pinned = problem.pinned.tolist()
        self._saved = 0.0
        inside = list(inside)
        # Rows inside of a window see in which of them a node runs: there all nodes stand alone.
        self._following = {} if inside else followers(problem)
        self.held: list[dict[int, int]] = []
        self.again: list[dict[int, int]] = []
        self.early: dict[int, int] = {}
        self._choose_early()
        self._useful = [self._useful_after(t) for t in self.moments]
        for k in range(len(self.moments)):
            self._add_columns(k)
        self._add_first_runs(0, -1, self.moments[0] if self.moments else problem.n - 1)
        for k in range(len(self.moments)):
            self._add_window(k)
        self._add_memory()
        self._run_pinned_once()
        if len(self.moments) > 1:
            for k in range(len(self.moments)):
                self._close(k)
        self._watch_inside(inside)

    def solve(
        self,
        *,
        seconds: float,
        gap: float,
        relax: bool = False,
        start: Decision | None = None,
        watch: Watch | None = None,
    ) -> Outcome:
        """Seconds over a run without recomputation: objective and bound of the answer, ``gap``, and what ``watch`` is told.

        ``start`` is what a sequence within the budget decides at the same moments.
        """
        values = None if start is None else self._values(start)
        told = None if watch is None else lambda bound: watch(self._over(bound))
        outcome = self.program.solve(seconds=seconds, gap=gap / self._cost_unit, relax=relax, start=values, watch=told)
        objective, bound = self._over(outcome.objective), self._over(outcome.bound)
        return Outcome(outcome.status, objective, bound, outcome.values, outcome.duals)

    def _over(self, value: float) -> float:
        """Seconds over a run without recomputation, from a value of the program's objective."""
        return (value - self._saved) * self._cost_unit

    def certified(self, outcome: Outcome) -> float:
        """Seconds over a run without recomputation that follow from the duals of a relaxation whatever their errors."""
        if outcome.duals is None:
            return math.inf if outcome.status == "infeasible" else 0.0
        return max(0.0, self._over(self.program.certified(outcome.duals)) * (1 - 1e-12))

    def _values(self, decision: Decision) -> dict[int, float]:
        """The integer columns of a decision; HiGHS finds the others."""
        values = {column: float(node not in decision.late) for node, column in self.early.items()}
        for k in range(len(self.moments)):
            values.update((column, float(i in decision.held[k])) for i, column in self.held[k].items())
            for node, column in self.again[k].items():
                values[column] = max(values.get(column, 0.0), float(node in decision.again[k]))
        return values

    def fix_ends(self, decision: Decision) -> None:
        """Leave to be decided only what lies between the first moment and the last one; the rest is as in ``decision``."""
        values = self._values(decision)
        for columns in (self.held[0], self.held[-1], self.again[-1], self.early):
            for column in columns.values():
                self.program.fix(column, values[column])

    def decision(self, values: np.ndarray) -> Decision:
        """Read a solution."""
        chosen = values > 0.5
        return Decision(
            self.moments,
            tuple(frozenset(i for i, column in held.items() if chosen[column]) for held in self.held),
            tuple(frozenset(v for v, column in again.items() if chosen[column]) for again in self.again),
            frozenset(v for v, column in self.early.items() if not chosen[column]),
        )

    def _window_of(self, node: int) -> int:
        """The window in which a node first runs: k for (t_k, t_k+1], -1 up to the first moment."""
        return bisect_left(self.moments, node) - 1

    def _useful_after(self, t: int) -> tuple[set[int], set[int]]:
        """Items that may be read after moment ``t``, and nodes up to ``t`` that may have to run again after it."""
        problem = self.problem
        items: set[int] = set()
        nodes: set[int] = set()
        for node in range(t, -1, -1):
            needed = [i for i in problem.writes[node] if any(reader > t or reader in nodes for reader in problem.readers[i])]
            if self._following.get(node, t + 1) > t:
                items.update(needed)
            if needed and (not self._pinned[node] or node in self.early):
                nodes.add(node)
        return items, nodes

    def _choose_early(self) -> None:
        """A variable for each auxiliary node that some later window could run instead of its own."""
        problem = self.problem
        for node in range(problem.n - 1, -1, -1):
            if not problem.auxiliary[node]:
                continue
            window = self._window_of(node)
            readers = {reader for i in problem.writes[node] for reader in problem.readers[i]}
            if all(reader in self.early or self._window_of(reader) > window for reader in readers):
                self.early[node] = self.program.column(self._cost[node], integer=True)
                self._saved += self._cost[node]

    def _add_columns(self, k: int) -> None:
        t, (items, nodes) = self.moments[k], self._useful[k]
        self.held.append({i: self.program.column(integer=True) for i in sorted(items)})
        for i in items:
            if self.problem.lasting[i] and self._producer[i] <= t:
                self.program.fix(self.held[k][i], 1.0)
        runs: dict[int, list[int]] = {}
        for v in sorted(nodes):
            runs.setdefault(last_of(self._following, v, t), []).append(v)
        columns = {last: self.program.column(sum(self._cost[v] for v in run), integer=True) for last, run in runs.items()}
        self.again.append({v: columns[last] for last, run in runs.items() for v in run})

    def _available(self, k: int, item: int) -> dict[int, float]:
        """Columns whose sum says whether an item made up to moment k is there at some time in window k."""
        terms = {}
        if (held := self.held[k].get(item)) is not None:
            terms[held] = 1.0
        if (again := self.again[k].get(self._producer[item])) is not None:
            terms[again] = 1.0
        return terms

    def _add_first_runs(self, k: int, start: int, end: int) -> None:
        """Nodes first run in (start, end] find their inputs. ``k`` is the moment before them (any for the start of all)."""
        demanded: set[int] = set()
        for node in range(start + 1, end + 1):
            early = self.early.get(node)
            for i in self.problem.reads[node]:
                producer = self._producer[i]
                if producer > start:
                    if early is not None and (below := self.early.get(producer)) is not None:
                        self.program.at_least({below: 1.0, early: -1.0}, 0.0)
                elif early is not None:
                    self.program.at_least({**self._available(k, i), early: -1.0}, 0.0)
                elif i not in demanded:
                    demanded.add(i)
                    self.program.at_least(self._available(k, i), 1.0)

    def _add_window(self, k: int) -> None:
        problem, program = self.problem, self.program
        t = self.moments[k]
        end = self.moments[k + 1] if k + 1 < len(self.moments) else problem.n - 1
        self._add_first_runs(k, t, end)
        for node, column in self.again[k].items():
            for i in problem.reads[node]:
                if column not in (terms := self._available(k, i)):
                    program.at_least({**terms, column: -1.0}, 0.0)
        before = self.moments[k - 1] if k else -1
        for i, column in self.held[k].items():
            producer = self._producer[i]
            if producer <= before:
                program.at_least({**self._available(k - 1, i), column: -1.0}, 0.0)
            elif (early := self.early.get(producer)) is not None:
                program.at_least({early: 1.0, column: -1.0}, 0.0)
            if (root := int(problem.base[i])) != i and root in self.held[k]:
                program.at_least({self.held[k][root]: 1.0, column: -1.0}, 0.0)

    def _run_pinned_once(self) -> None:
        for node, early in self.early.items():
            if self._pinned[node]:
                runs = {again[node]: 1.0 for again in self.again if node in again}
                self.program.at_most({early: 1.0, **runs}, 1.0)

    def _add_memory(self) -> None:
        problem = self.problem
        states = self._random_states()
        for k, t in enumerate(self.moments):
            there = {*problem.reads[t], *problem.writes[t]}
            lasting = np.flatnonzero(problem.lasting & (problem.producer < t))
            there.update(problem.base[lasting].tolist())
            beside = float(problem.workspace[t] + self._margins.get(t, 0)) / self._byte_unit
            room = self._room - beside - sum(self._bytes[i] for i in there)
            terms = {c: b for i, c in self.held[k].items() if i not in there and (b := self._bytes[i])}
            self.program.at_most({**terms, **states[k]}, room)

    def _random_states(self) -> list[dict[int, float]]:
        """Columns and bytes of the random states in memory at each moment: from a node's first run to its last."""
        states: list[dict[int, float]] = [{} for _ in self.moments]
        for node in np.flatnonzero(self.problem.replay).tolist():
            size = float(self.problem.replay[node]) / self._byte_unit
            later: int | None = None
            for k in range(len(self.moments) - 1, -1, -1):
                again = self.again[k].get(node)
                if self.moments[k] < node or node in self.early or (again is None and later is None):
                    continue
                column = self.program.column()
                for run in (again, later):
                    if run is not None:
                        self.program.at_least({column: 1.0, run: -1.0}, 0.0)
                states[k][column] = size
                later = column
        return states

    def _close(self, k: int) -> None:
        """What is not held at moment k, and needed later, is computed once at least after it: the closure of the needs.

        These rows cut off no integer solution. They keep the relaxation from spreading one recomputation over many windows.
        """
        problem, program = self.problem, self.program
        t = self.moments[k]
        once: dict[int, int] = {}
        for node in sorted(self._useful[k][1], reverse=True):
            if (last := last_of(self._following, node, t)) != node:
                once[node] = once[last]
                continue
            once[node] = program.column()
            runs = {again[node]: 1.0 for again in self.again[k:] if node in again}
            program.at_least({**runs, once[node]: -1.0}, 0.0)
        for i, held in self.held[k].items():
            terms = {held: 1.0}
            if (producer := self._producer[i]) in once:
                terms[once[producer]] = 1.0
            readers = problem.readers[i]
            if any(reader > t and reader not in self.early for reader in readers):
                program.at_least(terms, 1.0)
                continue
            for reader in readers:
                if reader in once:
                    program.at_least({**terms, once[reader]: -1.0}, 0.0)

    def _watch_inside(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Memory while a node is computed again: its inputs and outputs, and what is held from one moment to the next."""
        problem, program = self.problem, self.program
        rows: dict[int, set[int]] = {}
        for node, again in pairs:
            if 0 <= (k := self._window_of(node)) < len(self.moments) - 1 and again in self.again[k]:
                rows.setdefault(k, set()).add(again)
        for k, nodes in rows.items():
            lasting = set(problem.base[problem.lasting & (problem.producer <= self.moments[k])].tolist())
            through = self._held_through(k)
            for node in sorted(nodes):
                there = {*problem.reads[node], *problem.writes[node]}
                own = sum(self._bytes[i] for i in there) + float(problem.workspace[node]) / self._byte_unit
                fixed = sum(self._bytes[i] for i in lasting - there)
                terms = {column: size for i, column in through.items() if i not in there and (size := self._bytes[i])}
                program.at_most({**terms, self.again[k][node]: own}, self._room - fixed)

    def _held_through(self, k: int) -> dict[int, int]:
        """Columns that are 1 where an item is in memory from moment k to moment k + 1 all the time."""
        problem, program = self.problem, self.program
        inputs = set(problem.reads[self.moments[k + 1]])
        lasting = set(problem.base[problem.lasting].tolist())
        through = {}
        for i, held in self.held[k].items():
            after = self.held[k + 1].get(i)
            if not self._bytes[i] or i in lasting or (after is None and i not in inputs):
                continue
            column = through[i] = program.column()
            terms = {column: 1.0, held: -1.0}
            if (again := self.again[k].get(self._producer[i])) is not None:
                terms[again] = 1.0
            if after is None or i in inputs:
                program.at_least(terms, 0.0)
            else:
                program.at_least({**terms, after: -1.0}, -1.0)
        return through
