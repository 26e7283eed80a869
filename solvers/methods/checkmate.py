"""The full mixed-integer program of Checkmate, exact for a given order on small graphs.

Stage t computes node t for the first time; before it, any earlier node may run once more. A binary column says for each stage
and node whether it runs, and for each stage and item whether it is resident when the stage starts.
"""

from __future__ import annotations

import math

from remat_planner.solvers.candidates import Candidates
from remat_planner.solvers.interface import Answer, Solver, Task
from remat_planner.solvers.milp import TOLERANCE, MixedIntegerProgram
from remat_planner.solvers.problem import Problem

# Columns above which the program is not worth starting.
_MOST_COLUMNS = 150_000
# Columns built per second, a cautious figure to decide whether the remaining time suffices.
_COLUMNS_PER_SECOND = 10_000
# How often the budget is tightened when rounding lets the program exceed it by a few bytes.
_RETRIES = 3


class Checkmate(Solver):
    """The program for the whole graph.

    Args:
        passes: how often each stage goes over the earlier nodes. The paper has one pass; a few tiny graphs need more for the
            optimum, at the price of as many more columns.
    """

    name = "checkmate"
    description = "the full mixed-integer program of Checkmate (Jain et al. 2020) through PuLP and HiGHS, small graphs"
    proves = "a lower bound for schedules in the given order that compute each op at most once between two first runs"
    source = (
        "Jain, Jain, Nrusimha, Gholami, Abbeel, Keutzer, Stoica and Gonzalez, Checkmate: breaking the memory wall with optimal "
        "tensor rematerialization (MLSys 2020)"
    )

    def __init__(self, *, passes: int = 1) -> None:
        self.passes = passes

    def solve(self, task: Task) -> Answer:
        """Solve the program, or say that it is too large."""
        problem = task.problem
        candidates = Candidates(task)
        if candidates.fits(range(problem.n), "keeps everything"):
            return candidates.answer()
        passes = self.passes
        columns = _FullProgram.columns(problem, passes)
        if columns > _MOST_COLUMNS:
            return candidates.answer(f"the full program would have about {columns:,} columns, too many: use ilp or auto")
        if columns / _COLUMNS_PER_SECOND >= task.deadline.remaining:
            return candidates.answer(f"no time to build the full program of about {columns:,} columns")
        bound, budget = problem.seconds, task.budget
        for _ in range(_RETRIES):
            program = _FullProgram(problem, budget, passes)
            lower, nodes = program.solve(seconds=task.deadline.remaining)
            if budget == task.budget:
                bound = max(bound, lower)
            if nodes is None:
                break
            simulation = candidates.offer(nodes, f"full program, about {columns:,} columns")
            if simulation.peak_bytes <= task.budget:
                break
            budget -= simulation.peak_bytes - task.budget
        answer = candidates.answer()
        times = "once" if passes == 1 else f"{passes} times"
        return Answer(
            steps=answer.steps,
            bound=bound,
            assumption=f"first executions in the given order, between two of them each op at most {times}",
            note=answer.note,
        )


Terms = dict[int, float]


class _FullProgram:
    """The columns and rows. A *line* is one pass of a stage over the nodes; node t first runs in the last line of stage t.

    Args:
        problem: the reduced graph.
        budget: bytes, constants included.
        passes: lines per stage; line l belongs to stage l // passes.
    """

    def __init__(self, problem: Problem, budget: int, passes: int) -> None:
        self._problem = problem
        self._passes = passes
        self._lines = problem.n * passes
        self._program = MixedIntegerProgram()
        self._cost_unit = max(float(problem.cost.max(initial=0.0)) / 1000, 1e-300)
        self._byte_unit = max((budget - problem.constant_bytes) / 1000, 1e-3)
        self._room = (budget - problem.constant_bytes) / self._byte_unit
        self._bytes: list[float] = (problem.bytes / self._byte_unit).tolist()
        self._producer: list[int] = problem.producer.tolist()
        self._lasting: list[bool] = problem.lasting.tolist()
        lasts = [all(self._lasting[i] for i in items) and bool(items) for items in problem.writes]
        # Auxiliary nodes may first run later than in their stage, unless that would move the start of a result's life.
        self._movable = [
            bool(problem.auxiliary[v]) and not problem.outside[v] and not any(self._lasting[i] for i in problem.writes[v])
            for v in range(problem.n)
        ]
        self._may_repeat = [self._movable[v] or not (problem.pinned[v] or lasts[v]) for v in range(problem.n)]
        # All columns come before the rows, in this order: later ones refer to earlier ones. ``_one`` is fixed at 1.
        self._one = self._program.column(lower=1.0)
        self._run = [self._run_columns(line) for line in range(self._lines)]
        self._start = [self._start_columns(line) for line in range(self._lines)] + [{}]
        self._states = self._state_columns()
        for line in range(self._lines):
            self._add_inputs(line)
            self._add_carry(line)
            self._add_memory(line)
        self._add_movable()

    @staticmethod
    def columns(problem: Problem, passes: int) -> int:
        """An estimate of the number of columns."""
        return problem.n * (problem.n + 2 * problem.m + len(problem.read_items)) * passes // 2

    def solve(self, *, seconds: float) -> tuple[float, list[int] | None]:
        """A lower bound in seconds of the whole step, safe against HiGHS's tolerances, and the nodes of the best solution."""
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
        """For each node that may run in a line, the column that says whether it does."""
        problem, stage = self._problem, self._stage(line)
        columns = {}
        # Nothing may run between two ops of the caller's loss.
        if not (problem.outside[stage] and stage and problem.outside[stage - 1]):
            for v in range(stage):
                if self._may_repeat[v]:
                    columns[v] = self._program.column(float(problem.cost[v]) / self._cost_unit, integer=True)
        if self._is_last(line):
            moves = self._movable[stage]
            cost = float(problem.cost[stage]) / self._cost_unit
            columns[stage] = self._program.column(cost, integer=True) if moves else self._one
        return columns

    def _start_columns(self, line: int) -> dict[int, int]:
        """For each item that may be resident and of use at the start of a line, the column that says whether it is."""
        stage = self._stage(line)
        columns = {}
        for item, producer in enumerate(self._producer):
            if producer < stage and self._lasting[item]:
                columns[item] = self._one
            elif producer < stage and any(r >= stage or self._may_repeat[r] for r in self._problem.readers[item]):
                columns[item] = self._program.column(integer=True)
        return columns

    def _state_columns(self) -> list[dict[int, int]]:
        """For each line and node with random state, the column that says whether the state is held at the start of the line."""
        states: list[dict[int, int]] = [{} for _ in range(self._lines + 1)]
        for node in self._problem.replay.nonzero()[0].tolist():
            if self._problem.pinned[node]:  # runs only once, so its state is never held
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
        """A node that may first run late holds no state before that run."""
        drawn: int | None = None
        for line in range((node + 1) * self._passes, self._lines):
            drawn = self._any([drawn, self._run[line - 1].get(node)])
            if node in states[line]:
                held = self._program.column()
                self._program.at_least({held: 1.0, states[line][node]: -1.0, drawn: -1.0}, -1.0)
                states[line][node] = held

    def _available(self, line: int, item: int) -> Terms:
        """Columns whose sum says whether an item can be read in a line: it is resident at the start, or its producer runs."""
        terms: Terms = {}
        for columns, key in ((self._start[line], item), (self._run[line], self._producer[item])):
            if key in columns:
                terms[columns[key]] = terms.get(columns[key], 0.0) + 1.0
        return terms

    def _add_inputs(self, line: int) -> None:
        """A node runs only if everything it reads is available."""
        for node, run in self._run[line].items():
            for item in self._problem.reads[node]:
                available = self._available(line, item)
                if self._one not in available:
                    self._at_least(available, {run: 1.0})
                    self._add_refresh(line, item, run)

    def _add_carry(self, line: int) -> None:
        """An item is resident at the start of the next line only if it was at the start of this one, or is computed in it."""
        for item, column in self._start[line + 1].items():
            if column != self._one:
                self._at_least(self._available(line, item), {column: 1.0})
                self._add_refresh(line, item, column)

    def _add_refresh(self, line: int, item: int, column: int) -> None:
        """``column`` needs ``item``: if that is an in-place result and its base is recomputed in this line, it must be too."""
        base_run = self._run[line].get(self._producer[self._problem.base[item]])
        if self._problem.in_place[item] and base_run not in (None, self._one):
            item_run = self._run[line].get(self._producer[item])
            self._at_least({self._one: 1.0} | ({} if item_run is None else {item_run: 1.0}), {column: 1.0, base_run: 1.0})

    def _add_memory(self, line: int) -> None:
        """While each node of a line runs, memory is within the budget."""
        rows: dict[int, Terms] = {node: {} for node in sorted(self._run[line])}
        for item in range(self._problem.m):
            self._hold_item(line, item, rows)
        for node in self._run[line]:
            self._hold_workspace_and_states(line, node, rows[node])
            self._program.at_most(rows[node], self._room)

    def _hold_item(self, line: int, item: int, rows: dict[int, Terms]) -> None:
        """Add an item's bytes to the rows of the nodes during which it may be resident."""
        run, stage = self._run[line], self._stage(line)
        size, producer = self._bytes[item], self._producer[item]
        if not size or producer > stage or (producer == stage and producer not in run):
            return

        def hold(column: int, *, after: int, until: int) -> None:
            for node, terms in rows.items():
                if after < node <= until:
                    terms[column] = terms.get(column, 0.0) + size

        if self._lasting[item]:
            hold(self._one, after=-1 if producer < stage else producer - 1, until=stage)
            return
        if item in self._start[line]:
            hold(self._start[line][item], after=-1, until=producer - 1)
        readers = [reader for reader in self._problem.readers[item] if reader in run and reader <= stage]
        wanted = self._start[line + 1].get(item) if line + 1 < self._lines else None
        if wanted is not None:
            hold(wanted, after=max([producer, *readers]), until=stage)
        for j in range(len(readers) - 1, -1, -1):
            wanted = self._any([run[readers[j]], wanted])
            hold(wanted, after=readers[j - 1] if j else producer, until=readers[j])
        if producer in run:
            hold(self._any([run[producer], wanted]), after=producer - 1, until=producer)

    def _hold_workspace_and_states(self, line: int, node: int, terms: Terms) -> None:
        """Add the workspace of a node, and the random states held while it runs, to its row."""
        problem = self._problem
        if problem.workspace[node]:
            run = self._run[line][node]
            terms[run] = terms.get(run, 0.0) + float(problem.workspace[node]) / self._byte_unit
        for drawer in problem.replay.nonzero()[0].tolist():
            state = self._states[line if node <= drawer else line + 1].get(drawer)
            first_line = (drawer + 1) * self._passes - 1
            if state is not None and (line > first_line or (line == first_line and node >= drawer)):
                terms[state] = terms.get(state, 0.0) + float(problem.replay[drawer]) / self._byte_unit

    def _any(self, columns: list[int | None]) -> int:
        """A column that is at least each of ``columns`` (None: 0)."""
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
        """Auxiliary nodes run at least once, and pinned ones at most once."""
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
