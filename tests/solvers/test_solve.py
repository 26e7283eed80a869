"""The entrance: what it refuses, what it reports, and how it judges answers, those of a user's own solver included."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from remat_planner.schedules import Channel, Graph, InvalidScheduleError, Pool, simulate
from remat_planner.solvers import Answer, Reporter, Solution, Solver, Task, solve
from tests.solvers.helpers import check

# 0 -> 1 -> 2(1) -> 3(2, 0): the peak is 3 bytes without recomputation.
GRAPH = Graph.from_dag([1, 1, 1, 1], [1, 1, 1, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)


class Fixed(Solver):
    """A user's own solver, with an answer known beforehand."""

    name = "fixed"
    description = "always the same answer"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.tasks: list[Task] = []

    def solve(self, task: Task) -> Answer:
        self.tasks.append(task)
        return self.answer


class FixedWithCopies(Fixed):
    """The same, of a solver that understands transfers."""

    copies = True


@pytest.mark.parametrize("budget", [math.nan, math.inf, -1, 0, 0.5, True, "40GB", None])
def test_a_budget_that_is_no_number_of_bytes(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget is"):
        solve(Graph.from_dag([1], [1], []), budget, solver="none")


def test_a_whole_float_is_a_number_of_bytes() -> None:
    assert solve(Graph.from_dag([1], [1], []), 1.0, solver="none").status == "optimal"


@pytest.mark.parametrize("time_limit", [math.nan, -1, "long", True])
def test_a_time_limit_that_is_no_time(time_limit: Any) -> None:
    with pytest.raises(ValueError, match="time limit is"):
        solve(Graph.from_dag([1], [1], []), 1, time_limit=time_limit)


def test_the_reporter_hears_of_progress() -> None:
    heard: list[str] = []

    class Listener(Reporter):
        def started(self, solver: str, graph: Graph, budget: int) -> None:
            heard.append(f"started {solver} {len(graph.ops)} {budget}")

        def improved(self, cost: float, peak: int) -> None:
            heard.append(f"improved {cost} {peak}")

        def finished(self, solution: Solution) -> None:
            heard.append(f"finished {solution.status}")

    solve(GRAPH, 3, solver="chen", reporter=Listener())
    assert heard == ["started chen 4 3", "improved 4.0 3", "finished optimal"]


def test_a_start_that_is_better_is_the_answer() -> None:
    peak = simulate(GRAPH, [0, 1, 0, 2, 3]).peak_bytes
    solution = solve(GRAPH, peak, solver="none", start=((0, 1, 0, 2, 3),))
    assert solution.cost == 4.0  # the execution order itself fits, and costs less


def test_a_solver_of_ones_own_is_asked_and_judged() -> None:
    heard: list[str] = []

    class Listener(Reporter):
        def started(self, solver: str, graph: Graph, budget: int) -> None:
            heard.append(solver)

    own = Fixed(Answer(steps=(0, 1, 0, 2, 3), bound=4.5, assumption="a class of its own", note="a note"))
    solution = solve(GRAPH, 3, solver=own, time_limit=7, reporter=Listener(), enough=9.0)
    check(GRAPH, 3, solution)
    assert (solution.solver, solution.note, heard) == ("fixed", "a note", ["fixed"])
    assert (solution.cost, solution.bound, solution.status, solution.assumption) == (5.0, 4.5, "feasible", "a class of its own")
    (task,) = own.tasks
    assert (task.graph, task.budget, task.deadline.seconds, task.enough) == (GRAPH, 3, 7.0, 9.0)


def test_a_solver_of_ones_own_cannot_exceed_the_budget_or_overstate_its_bound() -> None:
    assert solve(GRAPH, 2, solver=Fixed(Answer(steps=(0, 1, 2, 3)))).status == "infeasible"
    overstated = solve(GRAPH, 3, solver=Fixed(Answer(steps=(0, 1, 2, 3), bound=99.0, assumption="wrong")))
    assert (overstated.bound, overstated.assumption) == (4.0, "any schedule")


def test_a_solver_gets_pools_if_it_understands_them_and_bounds_say_whether_they_cover_copies() -> None:
    # 0 -> 1 -> 2(1) -> 3(2, 0), where 0 has 4 bytes: while 1 and 2 run, it is resident, computed twice, or on the host.
    graph = Graph.from_dag([1, 1, 1, 1], [4, 3, 3, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    graph = graph.with_transfers([Pool("host", 4, Channel(8.0), Channel(8.0))])
    store, release, load = graph.copy_steps(0)
    recomputed, copied = (0, 1, 2, 0, 3), (0, store, 1, release, 2, load, 3)
    assert (simulate(graph, recomputed).peak_bytes, simulate(graph, copied).peak_bytes) == (8, 8)

    plain, copying = Fixed(Answer(recomputed, bound=5.0)), FixedWithCopies(Answer(copied, bound=4.25))
    solution = solve(graph, 8, solver=plain)
    assert plain.tasks[0].graph == graph.without_transfers
    assert (solution.cost, solution.status, solution.assumption) == (5.0, "optimal", "any schedule, without copies")
    solution = solve(graph, 8, solver=plain, start=(copied,))
    assert plain.tasks[1].start == ()
    assert (solution.cost, solution.bound, solution.assumption) == (4.5, 4.0, "any schedule")
    solution = solve(graph, 8, solver=copying)
    assert copying.tasks[0].graph == graph
    assert (solution.cost, solution.bound, solution.assumption) == (4.5, 4.25, "any schedule")
    infeasible = solve(graph, 7, solver=copying)
    assert (infeasible.status, infeasible.minimum, infeasible.bottleneck) == ("infeasible", 8, "op3")


def test_a_solver_of_ones_own_whose_steps_cannot_run() -> None:
    with pytest.raises(InvalidScheduleError, match="not computed"):
        solve(GRAPH, 3, solver=Fixed(Answer(steps=(1, 0, 2, 3))))
    with pytest.raises(InvalidScheduleError, match="has 4 ops"):
        solve(GRAPH, 3, solver=Fixed(Answer(steps=(0, 1, 2, 3, 4))))


@pytest.mark.parametrize("solver", [Fixed, None, 3])
def test_what_is_neither_a_name_nor_a_solver(solver: Any) -> None:
    with pytest.raises(TypeError, match="a name from available"):
        solve(GRAPH, 3, solver=solver)


def test_the_examples_on_the_page_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "solvers.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, {"graph": GRAPH, "budget": 3, "budgets": [3, 4]})
