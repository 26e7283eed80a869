"""From a question to a checked answer: the one way into every solver, and the one place where answers are judged."""

from __future__ import annotations

import math
from numbers import Integral, Real

from remat_planner.schedules import Graph, Simulation, simulate
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.interface import (
    ANY_SCHEDULE,
    OPTIMAL_TOLERANCE,
    ORDER_GIVEN_FORWARD,
    Answer,
    Reporter,
    Solution,
    Status,
    Task,
)
from remat_planner.solvers.problem import least_peak, least_peak_forward
from remat_planner.solvers.registry import get

# Sums of op times in different orders differ by rounding; this fraction of the step's time is far above that.
_ROUNDING = 1e-9


def solve(
    graph: Graph,
    budget: float,
    *,
    solver: str = "auto",
    time_limit: float = 60.0,
    reporter: Reporter | None = None,
    start: tuple[tuple[int, ...], ...] = (),
    enough: float | None = None,
) -> Solution:
    """Find the cheapest schedule of ``graph`` whose peak is at most ``budget`` bytes.

    Args:
        graph: the training step.
        budget: bytes, ``graph.constant_bytes`` included; a whole number above zero.
        solver: a name out of ``available()``.
        time_limit: seconds of wall time; at 0 the answer is the cheapest that the solver can make.
        reporter: told about progress.
        start: schedules known to run (of another budget, say) for solvers that can improve on one. They are candidates too:
            where one of them is within the budget and cheaper than what the solver found, it is the answer.
        enough: seconds of the step; a solver may stop as soon as it is known whether a schedule takes at most that.

    Raises:
        UnknownSolverError: the names are listed.
        SolverMissingError: the solver's library is not installed.
        ValueError: the budget or the time limit is no such number.
        InvalidScheduleError: a schedule in ``start`` does not run.
    """
    deadline = Deadline(checked_time_limit(time_limit))
    return solve_task(Task(graph, checked_budget(budget), deadline, reporter or Reporter(), start, enough), solver)


def solve_task(task: Task, solver: str) -> Solution:
    """``solve``, for a task that is made already.

    Raises:
        UnknownSolverError, SolverMissingError, InvalidScheduleError: as ``solve`` does.
    """
    method = get(solver)
    task.reporter.started(solver, task.graph, task.budget)
    answer = method.solve(task) if task.graph.ops else Answer(steps=())
    solution = _judge(task, answer, solver)
    task.reporter.finished(solution)
    return solution


def checked_budget(budget: float) -> int:
    """The budget as an int.

    Raises:
        ValueError: it is not a whole number above zero.
    """
    if isinstance(budget, bool) or not isinstance(budget, Real):
        raise ValueError(
            f"the budget is {budget!r}: give a number of bytes (an int); text such as '40GB' is for remat_planner.plan"
        )
    if not math.isfinite(budget) or (not isinstance(budget, Integral) and budget != int(budget)):
        raise ValueError(f"the budget is {budget!r}: give a whole number of bytes")
    if budget <= 0:
        raise ValueError(f"the budget is {int(budget)} bytes: it must be above zero")
    return int(budget)


def checked_time_limit(time_limit: float) -> float:
    """The time limit as a float.

    Raises:
        ValueError: it is not a number of seconds, zero or more.
    """
    if isinstance(time_limit, bool) or not isinstance(time_limit, Real) or math.isnan(time_limit) or time_limit < 0:
        raise ValueError(f"the time limit is {time_limit!r}: give seconds, zero or more")
    return float(time_limit)


def _judge(task: Task, answer: Answer, solver: str) -> Solution:
    """Measure what the solver claims, and say no more than what is measured or proven."""
    graph = task.graph
    offered = (tuple(answer.steps), *task.start)
    runs = [(steps, simulate(graph, steps)) for steps in offered if _leaves_the_loss_whole(graph, steps)]
    fitting = [run for run in runs if run[1].peak_bytes <= task.budget]
    bound, assumption = (graph.seconds, ANY_SCHEDULE) if answer.bound is None else (answer.bound, answer.assumption)
    if bound <= graph.seconds:
        bound, assumption = graph.seconds, ANY_SCHEDULE
    if not fitting:
        return _infeasible(task, runs, bound, assumption, answer, solver)
    steps, run = min(fitting, key=lambda fit: (fit[1].seconds, fit[1].peak_bytes))
    if bound > run.seconds + _ROUNDING * graph.seconds:
        # The schedule lies outside of the class that the bound speaks of, so the bound says nothing about it.
        bound, assumption = graph.seconds, ANY_SCHEDULE
    bound = min(bound, run.seconds)
    gap = (run.seconds - bound) / graph.seconds if graph.seconds else 0.0
    status: Status = "optimal" if run.seconds - bound <= OPTIMAL_TOLERANCE * run.seconds else "feasible"
    return Solution(
        steps=steps,
        cost=run.seconds,
        peak_bytes=run.peak_bytes,
        bound=bound,
        gap=gap,
        status=status,
        seconds=task.deadline.elapsed,
        solver=answer.solver or solver,
        minimum=run.peak_bytes,
        assumption=assumption,
        note=answer.note,
    )


def _leaves_the_loss_whole(graph: Graph, steps: tuple[int, ...]) -> bool:
    """Whether nothing stands between the ops of the caller's loss: they run in one piece, in the caller's code."""
    places = [place for place, i in enumerate(steps) if graph.ops[i].outside]
    return not places or places[-1] - places[0] == len(places) - 1


def _infeasible(
    task: Task,
    runs: list[tuple[tuple[int, ...], Simulation]],
    bound: float,
    assumption: str,
    answer: Answer,
    solver: str,
) -> Solution:
    graph = task.graph
    order = tuple(range(len(graph.ops)))
    runs = [*runs, (order, simulate(graph, order))]
    steps, run = min(runs, key=lambda candidate: (candidate[1].peak_bytes, candidate[1].seconds))
    bound, assumption, proof = _impossible(task, proven=bound == math.inf) or (bound, assumption, "")
    note = "; ".join(words for words in (proof, answer.note) if words)
    return Solution(
        steps=(),
        cost=math.inf,
        peak_bytes=run.peak_bytes,
        bound=bound,
        gap=math.inf,
        status="infeasible",
        seconds=task.deadline.elapsed,
        solver=answer.solver or solver,
        minimum=run.peak_bytes,
        assumption=assumption,
        bottleneck=graph.ops[steps[run.peak_step]].name if steps else None,
        note=note,
        minimum_steps=steps,
    )


def _impossible(task: Task, *, proven: bool) -> tuple[float, str, str] | None:
    """The bound, its assumption and the reason where one op and what must be beside it take more than the budget.

    Where it is ``proven`` already that there is no schedule, only what holds for more schedules is of interest.
    """
    graph, budget = task.graph, task.budget
    floor, op = least_peak(graph)
    if budget < floor:
        reason = f"{floor:,} bytes stay" if op is None else f"{graph.ops[op].name!r} alone needs {floor:,} bytes"
        return math.inf, ANY_SCHEDULE, reason
    if task.problem.n and not proven:
        floor, node = least_peak_forward(task.problem)
        if budget < floor:
            name = graph.ops[int(task.problem.ops[node])].name
            return math.inf, ORDER_GIVEN_FORWARD, f"{name!r} and what must wait beside it take {floor:,} bytes"
    return None
