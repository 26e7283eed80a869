"""Decisions to keep, recompute or copy become sequences that run, with the time and memory that were predicted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Channel, Graph, Pool, simulate
from remat_planner.solvers.copies import CopyPlanner
from remat_planner.solvers.copies.gaps import COPY, KEEP, LEAVE
from remat_planner.solvers.copies.needed import only_what_is_needed
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Problem
from tests.sampling import examples
from tests.schedules.slow_simulator import reference
from tests.solvers.helpers import networks, training_steps
from tests.transfers import FREE, with_pools

CHANNELS = st.builds(Channel, st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0.0, 1.0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [networks, training_steps])
def test_random_decisions_take_the_time_and_memory_that_was_predicted(kind: object) -> None:
    @examples(150)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        graph: Graph = data.draw(with_pools(data.draw(kind()), CHANNELS))  # type: ignore[operator]
        problem = Problem.of(graph)
        budget = problem.constant_bytes + data.draw(st.integers(1, 60))
        planner = CopyPlanner(problem, budget)
        gaps = planner.gaps
        options = [
            [KEEP, *[LEAVE] * int(leaves), *[COPY + p for p in range(len(graph.pools)) if copied]]
            for leaves, copied in zip(gaps.may_leave, gaps.may_be_copied, strict=True)
        ]
        decisions = np.array([data.draw(st.sampled_from(of)) for of in options], dtype=np.int64)
        planned, steps = planner.plan(decisions), planner.steps(decisions)
        simulation = simulate(graph, steps)
        assert simulation.seconds == pytest.approx(planned.seconds)
        assert (simulation.seconds, max(simulation.bytes)) == (
            pytest.approx(reference(graph, list(steps))[0]),
            planned.peak_bytes,
        )
        assert (planned.peak_bytes > budget) == (planned.excess > 0)
        outside = [place for place, i in enumerate(steps) if graph.actions[i].outside]
        assert not outside or outside[-1] - outside[0] == len(outside) - 1

    holds()


def chain(rate: float, sizes: tuple[int, ...] = (4, 4, 4)) -> Graph:
    """Three forward ops of 4 s whose results a backward op each reads, in reverse order."""
    n = len(sizes)
    edges = [(i, i + 1) for i in range(2 * n - 1)] + [(i, 2 * n - 1 - i) for i in range(n - 1)]
    graph = Graph.from_dag([4] * (2 * n), [*sizes, *[0] * n], edges, backward=n)
    return graph.with_transfers([Pool("host", 100, Channel(rate), Channel(rate))])


@pytest.mark.slow
def test_copies_hide_behind_ops_where_the_link_is_fast_enough_and_stall_where_it_is_not() -> None:
    def seconds(rate: float, budget: int) -> float:
        graph = chain(rate)
        planner = CopyPlanner(Problem.of(graph), budget)
        decisions = planner.gaps.keep_all(planner.problem.n)
        decisions[(planner.gaps.item == 0) & (planner.gaps.before == 1)] = COPY
        planned = planner.plan(decisions)
        assert simulate(graph, planner.steps(decisions)).seconds == planned.seconds
        return planned.seconds if not planned.excess else np.inf

    # Item 0 is stored from 4 s on. It must leave by 8 s, when op 2 begins, and can come back from 16 s on, for op 5 at 20 s.
    assert seconds(1.0, 8) == 24
    assert seconds(0.5, 8) == 24 + 4 + 4
    assert seconds(0.5, 12) == 24
    assert seconds(1.0, 7) == np.inf


@pytest.mark.slow
def test_an_item_that_is_loaded_twice_is_not_loaded_before_its_first_load_is_read() -> None:
    edges = [(i, i + 1) for i in range(7)] + [(0, 4), (0, 7)]
    graph = Graph.from_dag([4] * 8, [4, *[0] * 7], edges, backward=4)
    graph = graph.with_transfers([Pool("host", 100, Channel(math.inf), Channel(0.25))])  # a load takes as long as four ops
    planner = CopyPlanner(Problem.of(graph), 8)
    decisions = planner.gaps.keep_all(8)
    decisions[planner.gaps.may_be_copied & (planner.gaps.after < 8)] = COPY
    steps = planner.steps(decisions)
    assert [graph.actions[i].name for i in steps].count("load op0 from host") == 2
    assert simulate(graph, steps).seconds == planner.plan(decisions).seconds


def test_the_last_pass_leaves_only_what_has_to() -> None:
    graph = chain(1.0, (4, 4, 4, 4))
    planner = CopyPlanner(Problem.of(graph), 12)
    decisions = planner.gaps.keep_all(planner.problem.n)
    turn = (planner.gaps.before < 4) & (planner.gaps.after > 3) & (planner.gaps.after < 8)
    decisions[turn & planner.gaps.may_be_copied] = COPY
    decisions[turn & (planner.gaps.item == 1)] = LEAVE
    start = planner.plan(decisions)
    assert not start.excess
    best = only_what_is_needed(planner, start, Deadline(math.inf))
    assert (best.seconds, best.excess) == (planner.problem.seconds, 0)
    away = turn & (best.decisions != KEEP)
    assert away.any()  # 16 bytes do not fit 12
    for gap in np.flatnonzero(away):
        more = best.decisions.copy()
        more[gap] = KEEP
        assert planner.plan(more).excess


def test_what_may_leave() -> None:
    graph = Graph.from_dag([1, 1, 1, 1], [4, 3, 0, 2], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=2)
    gaps = CopyPlanner(Problem.of(graph.with_transfers([Pool("host", 9, FREE, FREE)], [0])), 10).gaps
    assert list(zip(gaps.before, gaps.item, gaps.after, strict=True)) == [(1, 0, 3), (2, 1, 4), (3, 0, 4), (3, 3, 4)]
    assert gaps.may_be_copied.tolist() == [True, False, True, False]
