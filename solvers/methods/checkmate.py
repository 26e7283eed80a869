"""The full mixed-integer program, exact for a given order on small graphs.

Jain, Jain, Nrusimha, Gholami, Abbeel, Keutzer, Stoica and Gonzalez, "Checkmate: breaking the memory wall with optimal tensor
rematerialization" (MLSys 2020). The program itself is in ``full_program``.
"""

from __future__ import annotations

import math

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.milp import TOLERANCE, Program
from remat_planner.solvers.problem import Problem

# Above this many columns the program is not worth starting.
_MOST_COLUMNS = 150_000
# How fast a program is built, cautiously.
_COLUMNS_PER_SECOND = 10_000
# Graphs of at most this many nodes get this many passes per stage.
_PASSES = ((12, 3),)
# How often the budget is tightened where rounding let the program exceed it by a few bytes.
_RETRIES = 3


class Checkmate(Solver):
    """The program for the whole graph."""

    name = "checkmate"
    description = "the full mixed-integer program of Checkmate (Jain et al. 2020) through PuLP and HiGHS, small graphs"
    proves = "a lower bound for schedules in the given order that compute each op at most once between two first runs"

    def solve(self, task: Task) -> Answer:
        """Solve the program, or say that it is too large."""
        problem = task.problem
        candidates = Candidates(task)
        if candidates.fits(range(problem.n), "keeps everything"):
            return candidates.answer()
        passes = next((count for most, count in _PASSES if problem.n <= most), 1)
        columns = FullProgram.columns(problem, passes)
        if columns > _MOST_COLUMNS:
            return candidates.answer(f"the full program would have about {columns:,} columns, too many: use ilp or auto")
        if columns / _COLUMNS_PER_SECOND >= task.deadline.remaining:
            return candidates.answer(f"no time to build the full program of about {columns:,} columns")
        bound, room = problem.seconds, task.budget
        for _ in range(_RETRIES):
            program = FullProgram(problem, room, passes)
            lower, nodes = program.solve(seconds=task.deadline.remaining)
            if room == task.budget:
                bound = max(bound, lower)
            if nodes is None:
                break
            run = candidates.offer(nodes, f"full program, about {columns:,} columns")
            if run.peak_bytes <= task.budget:
                break
            room -= run.peak_bytes - task.budget
        answer = candidates.answer()
        times = "once" if passes == 1 else f"{passes} times"
        return Answer(
            steps=answer.steps,
            bound=bound,
            assumption=f"first executions in the given order, between two of them each op at most {times}",
            note=answer.note,
        )


Terms = dict[int, float]


class FullProgram:
    """A *line* is a pass: line l belongs to stage l // passes, and node t first runs in the last line of stage t.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        passes: how often a stage goes over the nodes before its own.
    """

    def __init__(self, problem: Problem, budget: int, passes: int) -> None:
        self._problem = problem
        self._passes = passes
        self._lines = problem.n * passes
        self._program = Program()
        self._cost_unit = max(float(problem.cost.max(initial=0.0)) / 1000, 1e-300)
        self._byte_unit = max((budget - problem.constant_bytes) / 1000, 1e-3)
        self._room = (budget - problem.constant_bytes) / self._byte_unit
        self._bytes: list[float] = (problem.bytes / self._byte_unit).tolist()
        self._producer: list[int] = problem.producer.tolist()
        self._lasting: list[bool] = problem.lasting.tolist()
        lasts = [all(self._lasting[i] for i in items) and bool(items) for items in problem.writes]
        # Auxiliary nodes may first run later than at their place, unless a result would live from elsewhere.
        self._movable = [
            bool(problem.auxiliary[v]) and not problem.outside[v] and not any(self._lasting[i] for i in problem.writes[v])
            for v in range(problem.n)
        ]
        self._again = [self._movable[v] or not (problem.pinned[v] or lasts[v]) for v in range(problem.n)]
        self._one = self._program.column(lower=1.0)
        self._run = [self._run_columns(line) for line in range(self._lines)]
        self._start = [self._start_columns(line) for line in range(self._lines)] + [{}]
        self._state = self._state_columns()
        for line in range(self._lines):
            self._add_inputs(line)
            self._add_carry(line)
            self._add_memory(line)
        self._add_movable()

    @staticmethod
    def columns(problem: Problem, passes: int) -> int:
        """About how many columns the program has."""
        return problem.n * (problem.n + 2 * problem.m + len(problem.read_items)) * passes // 2

    def solve(self, *, seconds: float) -> tuple[float, list[int] | None]:
        """The bound in seconds of the whole step, safe against the tolerances of HiGHS, and the nodes of the best solution."""
        step = self._problem.seconds
        movable = sum(float(cost) for cost, moves in zip(self._problem.cost, self._movable, strict=True) if moves)
        outcome = self._program.solve(seconds=seconds, gap=1e-7 * step / self._cost_unit)
        bound = step - movable + outcome.bound * self._cost_unit
        if math.isfinite(bound):
            bound -= TOLERANCE * max(0.0, bound - step)
        if outcome.values is None:
            return bound, None
        chosen = outcome.values > 0.5
        return bound, [node for line in self._run for node, column in sorted(line.items()) if chosen[column]]

    def _stage(self, line: int) -> int:
        return line // self._passes

    def _is_last(self, line: int) -> bool:
        return line % self._passes == self._passes - 1

    def _run_columns(self, line: int) -> dict[int, int]:
        """For each node that may run in a line the column that says so."""
        problem, stage = self._problem, self._stage(line)
        columns = {}
        # Nothing may be put between two ops of the caller's loss.
        if not (problem.outside[stage] and stage and problem.outside[stage - 1]):
            for v in range(stage):
                if self._again[v]:
                    columns[v] = self._program.column(float(problem.cost[v]) / self._cost_unit, integer=True)
        if self._is_last(line):
            moves = self._movable[stage]
            cost = float(problem.cost[stage]) / self._cost_unit
            columns[stage] = self._program.column(cost, integer=True) if moves else self._one
        return columns

    def _start_columns(self, line: int) -> dict[int, int]:
        """For each item that may be in memory at the start of a line, and of use, the column that says so."""
        stage = self._stage(line)
        columns = {}
        for item, producer in enumerate(self._producer):
            if producer < stage and self._lasting[item]:
                columns[item] = self._one
            elif producer < stage and any(r >= stage or self._again[r] for r in self._problem.readers[item]):
                columns[item] = self._program.column(integer=True)
        return columns

    def _state_columns(self) -> list[dict[int, int]]:
        """For each line the nodes whose random state is held at its start, with the column that says so."""
        states: list[dict[int, int]] = [{} for _ in range(self._lines + 1)]
        for node in self._problem.replay.nonzero()[0].tolist():
            if self._problem.pinned[node]:  # runs once, wherever that is
                continue
            for line in range(self._lines - 1, (node + 1) * self._passes - 1, -1):
                if node in self._run[line]:
                    column = states[line][node] = self._program.column()
                    self._program.at_least({column: 1.0, self._run[line][node]: -1.0}, 0.0)
                    if node in states[line + 1]:
                        self._program.at_least({column: 1.0, states[line + 1][node]: -1.0}, 0.0)
                elif node in states[line + 1]:
                    states[line][node] = states[line + 1][node]
            if self._movable[node]:
                self._drawn_before(node, states)
        return states

    def _drawn_before(self, node: int, states: list[dict[int, int]]) -> None:
        """A node that may first run late has no state to hold until then."""
        drawn: int | None = None
        for line in range((node + 1) * self._passes, self._lines):
            drawn = self._any([drawn, self._run[line - 1].get(node)])
            if node in states[line]:
                held = self._program.column()
                self._program.at_least({held: 1.0, states[line][node]: -1.0, drawn: -1.0}, -1.0)
                states[line][node] = held

    def _there(self, line: int, item: int) -> Terms:
        """Columns whose sum says whether an item can be read in a line."""
        terms: Terms = {}
        for columns, key in ((self._start[line], item), (self._run[line], self._producer[item])):
            if key in columns:
                terms[columns[key]] = terms.get(columns[key], 0.0) + 1.0
        return terms

    def _add_inputs(self, line: int) -> None:
        """What runs finds what it reads."""
        problem = self._problem
        for node, run in self._run[line].items():
            for item in problem.reads[node]:
                terms = self._there(line, item)
                if self._one in terms:
                    continue
                self._at_least(terms, {run: 1.0})
                # Computing the base again makes an in-place result stale.
                base_run = self._run[line].get(self._producer[problem.base[item]])
                if problem.in_place[item] and base_run is not None:
                    again = self._run[line].get(self._producer[item])
                    self._at_least({self._one: 1.0} | ({again: 1.0} if again is not None else {}), {run: 1.0, base_run: 1.0})

    def _add_carry(self, line: int) -> None:
        """What is there at the start of the next line was there, or has been computed."""
        problem = self._problem
        for item, column in self._start[line + 1].items():
            if column == self._one:
                continue
            self._at_least(self._there(line, item), {column: 1.0})
            base_run = self._run[line].get(self._producer[problem.base[item]])
            if problem.in_place[item] and base_run is not None and base_run != self._one:
                again = self._run[line].get(self._producer[item])
                self._at_least({self._one: 1.0} | ({again: 1.0} if again is not None else {}), {column: 1.0, base_run: 1.0})

    def _add_memory(self, line: int) -> None:
        """Memory while each node of a line runs."""
        problem, run, stage = self._problem, self._run[line], self._stage(line)
        rows: dict[int, Terms] = {node: {} for node in run}

        def hold(nodes: list[int], column: int, size: float) -> None:
            for node in nodes:
                rows[node][column] = rows[node].get(column, 0.0) + size

        order = sorted(run)
        for item in range(problem.m):
            size, producer = self._bytes[item], self._producer[item]
            if not size or producer > stage or (producer == stage and producer not in run):
                continue
            if self._lasting[item]:
                hold([node for node in order if node >= producer or producer < stage], self._one, size)
                continue
            if item in self._start[line]:
                hold([node for node in order if node < producer], self._start[line][item], size)
            after = self._start[line + 1].get(item) if line + 1 < self._lines else None
            readers = [r for r in problem.readers[item] if r in run and r <= stage]
            wanted = after
            if wanted is not None:
                hold([node for node in order if node > max([producer, *readers])], wanted, size)
            for j in range(len(readers) - 1, -1, -1):
                wanted = self._any([run[readers[j]], wanted])
                begin = readers[j - 1] if j else producer
                hold([node for node in order if begin < node <= readers[j]], wanted, size)
            if producer in run:
                hold([producer], self._any([run[producer], wanted]), size)
        for node, terms in rows.items():
            if problem.workspace[node]:
                terms[run[node]] = terms.get(run[node], 0.0) + float(problem.workspace[node]) / self._byte_unit
            for v in problem.replay.nonzero()[0].tolist():
                state = self._state[line if node <= v else line + 1].get(v)
                first_line = (v + 1) * self._passes - 1
                if state is not None and (line > first_line or (line == first_line and node >= v)):
                    terms[state] = terms.get(state, 0.0) + float(problem.replay[v]) / self._byte_unit
            self._program.at_most(terms, self._room)

    def _any(self, columns: list[int | None]) -> int:
        """A column that is at least each of these (None: 0)."""
        real = [column for column in dict.fromkeys(columns) if column is not None]
        if self._one in real:
            return self._one
        if len(real) == 1:
            return real[0]
        highest = self._program.column()
        for column in real:
            self._program.at_least({highest: 1.0, column: -1.0}, 0.0)
        return highest

    def _add_movable(self) -> None:
        """Auxiliary nodes run once at least, and once at most where they are pinned."""
        for node in range(self._problem.n):
            if self._movable[node]:
                runs = {line[node]: 1.0 for line in self._run if node in line}
                self._program.at_least(runs, 1.0)
                if self._problem.pinned[node]:
                    self._program.at_most(runs, 1.0)

    def _at_least(self, left: Terms, right: Terms) -> None:
        """Add the row left >= right."""
        terms = dict(left)
        for column, value in right.items():
            terms[column] = terms.get(column, 0.0) - value
        self._program.at_least(terms, 0.0)
