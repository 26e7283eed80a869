"""The bound for schedules with copies: no schedule beats it, and it meets what is known at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remat_planner.schedules import Channel, Graph, Pool, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.copies import CopyPlanner
from remat_planner.solvers.copies.gaps import COPY, KEEP, LEAVE
from remat_planner.solvers.lazy_moments import CopyProgram
from remat_planner.solvers.problem import Problem
from tests.sampling import examples
from tests.solvers.helpers import baseline_peak, networks, training_steps
from tests.transfers import channels, with_pools


@pytest.mark.slow
@pytest.mark.parametrize("kind", [networks, training_steps])
def test_no_schedule_beats_the_bound(kind: object) -> None:
    @examples(60)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        graph: Graph = data.draw(with_pools(data.draw(kind()), channels()))  # type: ignore[operator]
        problem = Problem.of(graph)
        planner = CopyPlanner(problem, problem.constant_bytes + data.draw(st.integers(1, 60)))
        gaps = planner.gaps
        options = [
            [KEEP, *[LEAVE] * int(leaves), *[COPY + p for p in range(len(graph.pools)) if copied] * 3]
            for leaves, copied in zip(gaps.may_leave, gaps.may_be_copied, strict=True)
        ]
        decisions = np.array([data.draw(st.sampled_from(of)) for of in options], dtype=np.int64)
        simulation = simulate(graph, planner.steps(decisions))
        places = [node for node in range(problem.n) if not problem.auxiliary[node]]
        assume(places)
        moments = sorted(data.draw(st.sets(st.sampled_from(places), min_size=1, max_size=3)))
        program = CopyProgram(problem, max(simulation.bytes), moments)
        relaxed, solved = program.relax(seconds=10).bound, program.solve(seconds=10, gap=0.0).bound
        assert relaxed <= simulation.seconds * (1 + 1e-9)
        assert solved <= simulation.seconds * (1 + 1e-6)
        assert relaxed <= solved * (1 + 1e-6)

    holds()


def layers(rate: float, host: int = 100) -> Graph:
    """Four forward ops of 2 s and 4 bytes, and their backward ops of 4 s, which read them in reverse order."""
    edges = [(i, i + 1) for i in range(7)] + [(i, 7 - i) for i in range(3)]
    graph = Graph.from_dag([2] * 4 + [4] * 4, [4] * 4 + [1] * 4, edges, backward=4)
    return graph.with_transfers([Pool("host", host, Channel(rate), Channel(rate))])


@pytest.mark.slow
@pytest.mark.parametrize("rate", [math.inf, 2.0, 1e-9])
def test_at_any_rate_the_bound_lies_between_no_recomputation_and_no_copies(rate: float) -> None:
    graph, budget = layers(rate), 10
    plain = solve(graph.without_transfers, budget, solver="ilp")
    assert plain.status == "optimal"
    assert plain.cost > graph.seconds
    moment = [simulate(graph, range(8)).peak_step]
    unlinked = CopyProgram(Problem.of(graph.without_transfers), budget, moment).relax(seconds=10).bound
    bound = CopyProgram(Problem.of(graph), budget, moment).relax(seconds=10).bound
    assert graph.seconds <= bound <= unlinked + 1e-9
    solution = solve(graph, budget, solver="auto", time_limit=1.0)
    if rate == math.inf:
        assert solution.cost == pytest.approx(graph.seconds)
        assert solution.status == "optimal"
    elif rate < 1:
        assert bound == pytest.approx(unlinked)
        assert solution.cost == pytest.approx(plain.cost)
    else:
        assert graph.seconds <= solution.cost <= plain.cost


def test_a_pool_without_room_is_none() -> None:
    graph = layers(math.inf, host=0)
    moment = [simulate(graph, range(8)).peak_step]
    bounds = [CopyProgram(Problem.of(of), 10, moment).relax(seconds=10).bound for of in (graph, graph.without_transfers)]
    assert bounds[0] == pytest.approx(bounds[1])
    assert baseline_peak(graph) > 10
