"""From a question to a checked answer: every solve passes through here, and here the simulator judges every answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import get_args

from remat_planner.schedules import Graph, Simulation, preference, simulate
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.errors import OrderError
from remat_planner.solvers.interface import (
    ANY_SCHEDULE,
    OPTIMAL_TOLERANCE,
    ORDER_GIVEN_FORWARD,
    WITHOUT_COPIES,
    Answer,
    Conflict,
    Order,
    Reporter,
    Solution,
    Solver,
    Status,
    Task,
)
from remat_planner.solvers.problem import irreducible, least_peak, least_peak_forward
from remat_planner.solvers.registry import resolve

# Sums of op times in different orders differ by rounding, by far less than this fraction of the step's seconds.
_ROUNDING = 1e-9


def solve(
    graph: Graph,
    budget: float,
    *,
    solver: str | Solver = "auto",
    time_limit: float = 60.0,
    reporter: Reporter | None = None,
    start: tuple[tuple[int, ...], ...] = (),
    enough: float | None = None,
    order: Order = "given",
) -> Solution:
    """Find the cheapest schedule of ``graph`` whose peak is at most ``budget`` bytes.

    Args:
        graph: the training step.
        budget: bytes, ``graph.constant_bytes`` included; a whole number above zero.
        solver: a name from ``available()``, or a solver of your own: an instance of a subclass of ``Solver``.
        time_limit: seconds of wall time; at 0 the answer is the cheapest to compute.
        reporter: receives progress.
        start: schedules known to run, for instance of another budget, for solvers that can improve on one. They are candidates
            too: if one is within the budget and cheaper than the solver's schedule, it is the answer.
        enough: seconds of the step; a solver may stop once it knows whether a schedule takes at most that.
        order: "any" lets first executions move too, wherever the bits stay: not those of ops that draw random numbers, update
            state or run once. For solvers with ``any_order``, on graphs without pools. With "given" a schedule in ``start``
            that moves them is no candidate.

    Raises:
        OrderError: ``order`` is "any" for a solver that keeps the given order, or for a graph with pools.
        UnknownSolverError: no solver has this name; the error lists the names.
        SolverMissingError: the solver's library is not installed.
        TypeError: ``solver`` is neither a name nor an instance of ``Solver``.
        ValueError: the budget or the time limit is not a valid number.
        InvalidScheduleError: a schedule in ``start``, or one from a solver of your own, cannot run.
    """
    method = resolve(solver)
    check_order(order, method, copies=bool(graph.pools))
    deadline = Deadline(checked_time_limit(time_limit))
    task = Task(graph, checked_budget(budget), deadline, reporter or Reporter(), start, enough, order)
    return solve_task(task, method)


def solve_task(task: Task, solver: Solver) -> Solution:
    """``solve`` for an existing task.

    Raises:
        InvalidScheduleError: as ``solve`` does.
    """
    if task.start and task.order == "given":
        task = task.derive(start=tuple(steps for steps in task.start if task.problem.keeps_order(steps)))
    task.reporter.started(solver.name, task.graph, task.budget)
    copies = solver.copies or not task.graph.pools
    answer = solver.solve(task if copies else task.without_transfers()) if task.graph.ops else Answer(steps=())
    solution = _judged(task, answer, answer.solver or solver.name, copies=copies)
    task.reporter.finished(solution)
    return solution


def check_order(order: str, solver: Solver, *, copies: bool) -> None:
    """Require that ``solver`` can move first executions where it is asked to; ``copies``: the graph has pools.

    Raises:
        OrderError: they cannot, or ``order`` is no order.
    """
    if order not in get_args(Order):
        raise OrderError(f"the order can be {' or '.join(get_args(Order))}, not {order!r}")
    if order == "any" and not solver.any_order:
        raise OrderError(f"solver {solver.name!r} keeps the order of first executions: take 'auto', or leave order='any' out")
    if order == "any" and copies:
        raise OrderError("copies are planned in the given order of first executions: leave order='any' or the copies out")


def checked_budget(budget: float) -> int:
    """The budget in bytes as an int.

    Raises:
        ValueError: the budget is not a whole number above zero.
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
    """The time limit in seconds as a float.

    Raises:
        ValueError: the time limit is negative or not a number.
    """
    if isinstance(time_limit, bool) or not isinstance(time_limit, Real) or math.isnan(time_limit) or time_limit < 0:
        raise ValueError(f"the time limit is {time_limit!r}: give seconds, zero or more")
    return float(time_limit)


@dataclass(frozen=True)
class _Candidate:
    steps: tuple[int, ...]
    simulation: Simulation


def _judged(task: Task, answer: Answer, solver: str, *, copies: bool) -> Solution:
    """The best of ``answer`` and ``task.start`` by the simulator, with the bound as far as it is valid.

    ``copies`` says whether the bound covers all schedules of the graph, also those that copy to its pools.
    """
    graph = task.graph
    simulated = [_Candidate(steps, simulate(graph, steps)) for steps in (tuple(answer.steps), *task.start)]
    candidates = [candidate for candidate in simulated if _keeps_loss_together(graph, candidate.steps)]
    bound, assumption = (graph.seconds, ANY_SCHEDULE) if answer.bound is None else (answer.bound, answer.assumption)
    if bound <= graph.seconds:
        bound, assumption = graph.seconds, ANY_SCHEDULE
    elif not copies:
        assumption += WITHOUT_COPIES
    best = min(candidates, key=lambda candidate: preference(candidate.simulation, task.budget), default=None)
    if best is None or best.simulation.peak_bytes > task.budget:
        return _infeasible(task, candidates, bound, assumption, answer.note, solver)
    cost = best.simulation.seconds
    if bound > cost + _ROUNDING * graph.seconds:
        # The schedule lies outside the class that the bound covers, so the bound says nothing about it.
        bound, assumption = graph.seconds, ANY_SCHEDULE
    bound = min(bound, cost)
    status: Status = "optimal" if cost - bound <= OPTIMAL_TOLERANCE * cost else "feasible"
    return Solution(
        steps=best.steps,
        cost=cost,
        peak_bytes=best.simulation.peak_bytes,
        bound=bound,
        gap=(cost - bound) / graph.seconds if graph.seconds else 0.0,
        status=status,
        seconds=task.deadline.elapsed,
        solver=solver,
        minimum=best.simulation.peak_bytes,
        assumption=assumption,
        note=answer.note,
    )


def _keeps_loss_together(graph: Graph, steps: tuple[int, ...]) -> bool:
    """Whether the ops of the caller's loss run in one piece, as they do in the caller's code."""
    places = [place for place, i in enumerate(steps) if graph.actions[i].outside]
    return not places or places[-1] - places[0] == len(places) - 1


def _infeasible(task: Task, candidates: list[_Candidate], bound: float, assumption: str, note: str, solver: str) -> Solution:
    graph = task.graph
    order = tuple(range(len(graph.ops)))
    candidates = [*candidates, _Candidate(order, simulate(graph, order))]
    lowest = min(candidates, key=lambda candidate: (candidate.simulation.peak_bytes, candidate.simulation.seconds))
    peak = lowest.simulation.peak_bytes
    conflict = _conflict(task)
    proof = ""
    # A proof of the solver's own is of interest before one for a narrower class.
    if conflict is not None and (bound < math.inf or conflict.assumption == ANY_SCHEDULE):
        bound, assumption, proof = math.inf, conflict.assumption, _proof(conflict)
    return Solution(
        steps=(),
        cost=math.inf,
        peak_bytes=peak,
        bound=bound,
        gap=math.inf,
        status="infeasible",
        seconds=task.deadline.elapsed,
        solver=solver,
        minimum=peak,
        assumption=assumption,
        bottleneck=graph.actions[lowest.steps[lowest.simulation.peak_step]].name if lowest.steps else None,
        note="; ".join(part for part in (proof, note) if part),
        minimum_steps=lowest.steps,
        conflict=conflict,
    )


def _conflict(task: Task) -> Conflict | None:
    """What one op, or the end of the step, needs at once beyond the budget; None where every moment by itself fits."""
    graph, budget = task.graph, task.budget
    least, op, storages = least_peak(graph)
    assumption = ANY_SCHEDULE
    if budget >= least and task.problem.n and not graph.pools:  # with copies, what cannot be recomputed need not be resident
        least, node, storages = least_peak_forward(task.problem)
        op, assumption = int(task.problem.ops[node]), ORDER_GIVEN_FORWARD
    if budget >= least:
        return None
    rest = graph.constant_bytes + (0 if op is None else graph.ops[op].workspace)
    sizes = {s: graph.storages[s].bytes for s in storages}
    return Conflict(None if op is None else graph.ops[op].name, least, irreducible(sizes, budget - rest), assumption)


def _proof(conflict: Conflict) -> str:
    """``conflict`` in words."""
    if conflict.op is None:
        return f"constants and results alone take {conflict.bytes:,} bytes"
    if conflict.assumption == ANY_SCHEDULE:
        return f"{conflict.op!r} alone needs {conflict.bytes:,} bytes"
    return f"{conflict.op!r} and what must be resident beside it take {conflict.bytes:,} bytes"
