"""The full mixed-integer program, exact for a given order on small graphs.

Jain, Jain, Nrusimha, Gholami, Abbeel, Keutzer, Stoica and Gonzalez, "Checkmate: breaking the memory wall with optimal tensor
rematerialization" (MLSys 2020). The program itself is in ``full_program``.
"""

from __future__ import annotations

from solvers.base import Answer, Solver, Task
from solvers.candidates import Candidates
from solvers.full_program import FullProgram

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
