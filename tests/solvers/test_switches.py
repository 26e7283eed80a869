"""With any combination of their ideas switched off, solvers give valid answers and true bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph
from remat_planner.solvers import solve
from remat_planner.solvers.annealing.kernel import MoveMix
from remat_planner.solvers.annealing.search import AnnealingOptions
from remat_planner.solvers.interface import Solver
from remat_planner.solvers.lazy_moments.options import LazyMomentsOptions, ProgramOptions
from remat_planner.solvers.methods.anneal import Anneal
from remat_planner.solvers.methods.checkmate import Checkmate
from remat_planner.solvers.methods.ilp import LazyMomentsSolver
from remat_planner.solvers.methods.twolevel import TwoLevel
from remat_planner.solvers.problem.reduced_graph import Problem
from remat_planner.solvers.two_level.options import TwoLevelOptions
from tests.sampling import examples
from tests.solvers.exhaustive import cheapest
from tests.solvers.helpers import baseline_peak, check, networks, training_steps

_ON = st.booleans()


def _off(*default: float) -> st.SearchStrategy[float]:
    return st.sampled_from([*default, 0.0])


_PROGRAMS = st.builds(ProgramOptions, fuse_nodes=_ON, closure_rows=_ON)
_LAZY_MOMENTS = st.builds(
    LazyMomentsOptions,
    program=_PROGRAMS,
    relax_first=_ON,
    warm_starts=_ON,
    watch_bounds=_ON,
    both_orders=_ON,
    focus=_ON,
    inside_rows=_ON,
    exhaustive=_ON,
    tightenings=st.sampled_from([0, 3]),
)
_TWO_LEVEL = st.builds(
    TwoLevelOptions,
    share_blocks=_ON,
    align_layers=_ON,
    prune_prefixes=_ON,
    levels=st.sampled_from([1, 4]),
    tries=st.sampled_from([1, 4]),
)
_MOVES = st.builds(
    MoveMix,
    swaps=_off(0.25),
    removals=_off(0.2),
    shifts=_off(0.2),
    at_peaks=_off(0.6),
    alone=_off(0.4, 1.0),
    whole=_off(0.2),
    firsts=st.just(0.0),  # `cheapest` keeps the given order
)
_ANNEALING = st.builds(AnnealingOptions, streams=st.sampled_from([1, 2]), warm_streams=_ON, moves=_MOVES)
_SOLVERS: Any = st.one_of(
    st.builds(LazyMomentsSolver, _LAZY_MOMENTS),
    st.builds(TwoLevel, _TWO_LEVEL),
    st.builds(Anneal, _ANNEALING),
    st.builds(Checkmate, passes=st.sampled_from([1, 2])),
)


@pytest.mark.slow
@examples(60)
@given(st.one_of(training_steps(max_ops=7), networks(max_stages=3)), _SOLVERS, st.sampled_from([0.9, 0.75, 0.6, 0.45]))
def test_any_combination_of_switches_is_valid(graph: Graph, solver: Solver, share: float) -> None:
    budget = max(1, graph.constant_bytes, round(share * baseline_peak(graph)))
    solution = solve(graph, budget, solver=solver, time_limit=0.1 if isinstance(solver, Anneal) else 10)
    check(graph, budget, solution)
    best = cheapest(Problem.of(graph), budget)
    assert solution.bound <= best + 1e-6 * max(1.0, graph.seconds)
    assert solution.cost >= best - 1e-9
