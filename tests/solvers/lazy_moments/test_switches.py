"""What each idea of lazy moments is worth: these tests fail when one stops paying. ``test_fused_nodes`` has that of fusing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from remat_planner.schedules import Graph, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.lazy_moments.decision import emit
from remat_planner.solvers.lazy_moments.loop import LazyMoments
from remat_planner.solvers.lazy_moments.master_program import MasterProgram, closure_bound
from remat_planner.solvers.lazy_moments.options import LazyMomentsOptions, ProgramOptions, WindowsOptions
from remat_planner.solvers.lazy_moments.simulated_sequence import SimulatedSequence
from remat_planner.solvers.lazy_moments.windows import solve_windows
from remat_planner.solvers.milp.highs import Watch
from remat_planner.solvers.milp.program import Outcome
from remat_planner.solvers.problem.least_peak import least_peak
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.solvers.helpers import instance

ALL = LazyMomentsOptions()


def worked_off(problem: Problem, budget: int, options: LazyMomentsOptions = ALL) -> LazyMoments:
    method = LazyMoments(problem, budget, options=options)
    deadline = Deadline(30)
    while method.work(deadline):
        pass
    return method


def question(name: str, share: float) -> tuple[Problem, int]:
    graph, peak = instance(name)
    return Problem.of(graph), math.floor(share * peak)


def chain_with_skips(seed: int) -> tuple[Problem, int]:
    """A chain of 10 to 22 forward ops with short skips, its backward, and a budget."""
    draw = random.Random(seed)
    length = draw.randint(10, 22)
    costs = [draw.randint(1, 9) for _ in range(2 * length)]
    sizes = [draw.randint(1, 30) for _ in range(2 * length)]
    edges = {(v - 1, v) for v in range(1, 2 * length)}
    for v in range(2, length):
        if draw.random() < 0.4:
            edges.add((draw.randint(max(0, v - 6), v - 2), v))
    for v in range(length):
        if draw.random() < 0.8:
            edges.add((v, 2 * length - 1 - v))
        if draw.random() < 0.3:
            edges.add((max(0, v - 1), 2 * length - 1 - v))
    graph = Graph.from_dag(costs, sizes, sorted(edge for edge in edges if edge[0] < edge[1]), length)
    peak = simulate(graph, range(2 * length)).peak_bytes
    return Problem.of(graph), int(peak * draw.choice([0.85, 0.75, 0.65, 0.55]))


def dense_graph(seed: int) -> tuple[Problem, int]:
    """A training step of 16 to 32 ops that read up to three of the last six values, and a budget."""
    draw = random.Random(seed)
    length = draw.randint(8, 16)
    costs = [draw.choice([1, 1, 2, 3, 9]) for _ in range(2 * length)]
    sizes = [draw.choice([1, 2, 5, 10, 20, 30]) for _ in range(2 * length)]
    edges = set()
    for v in range(1, 2 * length):
        for _ in range(draw.randint(1, 3)):
            edges.add((max(0, v - draw.choice([1, 1, 2, 3, 4, 6])), v))
        if v >= length:
            edges.add((max(0, 2 * length - 1 - v), v))
    graph = Graph.from_dag(costs, sizes, sorted(edge for edge in edges if edge[0] < edge[1]), length)
    peak = simulate(graph, range(2 * length)).peak_bytes
    return Problem.of(graph), max(least_peak(graph)[0], int(peak * draw.choice([0.9, 0.8, 0.7, 0.6])))


def tiny_graph(seed: int) -> tuple[Problem, int]:
    """A training step of 5 to 10 plain ops, and a budget."""
    draw = random.Random(seed)
    n = draw.randint(5, 10)
    start = draw.randint(n // 2, n)
    costs, sizes = ([draw.randint(1, 9) for _ in range(n)] for _ in range(2))
    edges = set()
    for v in range(1, n):
        for step in [draw.choice([1, 1, 1, 2, 3, 5]) for _ in range(draw.randint(1, 3))]:
            edges.add((max(0, v - step), v))
        if v >= start:
            edges.add((max(0, min(v - 1, 2 * start - v)), v))
    graph = Graph.from_dag(costs, sizes, sorted(edges), start)
    least, peak = least_peak(graph)[0], simulate(graph, range(n)).peak_bytes
    return Problem.of(graph), draw.randint(min(least, peak), peak)


def test_closure_rows_raise_the_bound_of_the_relaxation() -> None:
    problem, budget = question("rlg1_n100", 0.8)
    moments = [20, 30, 40, 50, 60, 70, 80]
    with_rows, without = (
        closure_bound(MasterProgram(problem, budget, moments, options=ProgramOptions(closure_rows=rows)))
        for rows in (True, False)
    )
    assert with_rows > without + 2e-5 * problem.seconds


def unsolved(master: MasterProgram, **_: object) -> Outcome:
    return Outcome("unknown", math.inf, -math.inf, None, None)


def test_the_relaxation_gives_a_bound_where_no_program_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, budget = question("rlg1_n100", 0.9)
    bounds = {}
    real = MasterProgram.solve

    def only_relaxations(master: MasterProgram, *, relax: bool = False, **rest: object) -> Outcome:
        return real(master, relax=True, seconds=10, gap=0.0) if relax else unsolved(master)

    monkeypatch.setattr(MasterProgram, "solve", only_relaxations)
    for first in (True, False):
        method = LazyMoments(problem, budget, options=replace(ALL, relax_first=first))
        method.step(Deadline(30))
        bounds[first] = method.certain
    assert bounds[True] > 1.004 * problem.seconds
    assert bounds[False] == problem.seconds


@pytest.mark.slow
def test_a_warm_start_saves_work() -> None:
    problem, budget = question("rlg1_n100", 0.8)
    solved = worked_off(problem, budget)
    watched = solved._watched
    iterations = {}
    for warm in (True, False):
        method = LazyMoments(problem, budget, options=replace(ALL, warm_starts=warm))
        method.best, method.bound = solved.best, solved.bound
        master = MasterProgram(problem, budget, sorted(watched.moments), inside=watched.inside)
        start = method._start(master)
        assert (start is not None) is warm
        iterations[warm] = master.solve(seconds=20, gap=2e-7 * problem.seconds, start=start).iterations
    assert iterations[True] < 0.7 * iterations[False]


def test_a_watched_program_ends_when_a_schedule_from_elsewhere_meets_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, budget = question("checkmate_fcn8", 0.8)
    best = worked_off(problem, budget).best
    assert best is not None
    news: list[SimulatedSequence] = []
    answers = []

    def program(master: MasterProgram, *, watch: Watch, **_: object) -> Outcome:
        answers.append(watch(-math.inf))
        news.append(best)
        answers.append(watch(best.simulation.seconds - problem.seconds))
        return unsolved(master)

    monkeypatch.setattr(MasterProgram, "solve", program)
    for watch_bounds in (True, False):
        news.clear()
        options = replace(ALL, watch_bounds=watch_bounds, relax_first=False)
        LazyMoments(problem, budget, found_elsewhere=lambda: news, options=options).step(Deadline(30))
    assert answers == [False, True, False, False]


def test_the_second_order_of_recomputation_lowers_peaks() -> None:
    problem, budget = dense_graph(2)
    top = int(problem.simulate(range(problem.n)).bytes.argmax())
    master = MasterProgram(problem, budget, sorted({top, max(0, top - 4), min(problem.n - 1, top + 4)}))
    outcome = master.solve(seconds=20, gap=0.0)
    assert outcome.values is not None
    decision = master.decision(outcome.values)
    depth_first, by_index = (problem.simulate(emit(problem, decision, by_index=order)) for order in (False, True))
    assert by_index.peak_bytes < depth_first.peak_bytes
    for both_orders, peak in ((True, by_index.peak_bytes), (False, depth_first.peak_bytes)):
        method = LazyMoments(problem, budget, options=replace(ALL, both_orders=both_orders))
        assert method._emitted(decision).simulation.peak_bytes == peak


def test_moments_where_the_best_schedule_is_tight_raise_the_bound() -> None:
    problem, budget = question("checkmate_unet", 0.45)
    best = worked_off(problem, budget).best
    assert best is not None
    bounds = []
    for focus in (True, False):
        method = LazyMoments(problem, budget, options=replace(ALL, focus=focus))
        method.offer(best.nodes)
        assert method.focus() is focus
        bounds.append(closure_bound(MasterProgram(problem, budget, sorted(method._watched.moments))))
    assert bounds[0] > bounds[1] + 5e-4 * problem.seconds


def test_rows_inside_windows_find_a_schedule_where_moments_alone_do_not() -> None:
    problem, budget = question("rlg1_n100", 0.9)
    assert worked_off(problem, budget).closed
    assert worked_off(problem, budget, replace(ALL, inside_rows=False)).best is None


def test_exhaustive_search_decides_on_tiny_graphs() -> None:
    problem, budget = tiny_graph(7)
    complete, without = (worked_off(problem, budget, replace(ALL, exhaustive=exhaustive)) for exhaustive in (True, False))
    assert complete.best is not None
    assert complete.closed
    assert without.best is None
    assert without.bound < complete.bound


@pytest.mark.slow
def test_margins_save_programs() -> None:
    problem, budget = chain_with_skips(30)
    with_margins, without = (worked_off(problem, budget, replace(ALL, tightenings=tries)) for tries in (3, 0))
    assert with_margins.closed
    assert with_margins.programs < without.programs
    assert with_margins.iterations < without.iterations


@pytest.mark.slow
def test_a_second_try_of_a_window_pays() -> None:
    graph, peak = instance("checkmate_unet")
    problem, budget = Problem.of(graph), math.floor(0.6 * peak)
    nodes = problem.nodes_of(solve(graph, budget, solver="every-n").steps)
    seconds = [
        problem.simulate(solve_windows(problem, budget, nodes, Deadline(30), WindowsOptions(tries=tries))).seconds
        for tries in (3, 1)
    ]
    assert seconds[0] < 0.95 * seconds[1]
