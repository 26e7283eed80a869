"""Chain solvers against closed forms, published tables and optimal costs."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from remat_planner.schedules import Graph, Op, Storage, Value
from remat_planner.solvers import solve
from remat_planner.solvers.chain.actions import Action
from remat_planner.solvers.chain.binomial import advances, repetitions, split
from remat_planner.solvers.chain.persistent_dp import steps, table
from remat_planner.solvers.chain.stages import Forward, chains
from remat_planner.solvers.interface import Task
from remat_planner.solvers.methods.revolve import revolve
from remat_planner.solvers.methods.treeverse import treeverse
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.instances import instance_path
from tests.solvers.helpers import baseline_peak, instance, linear, unit_chain
from tests.solvers.textbook_chain import textbook_stages


def carried_out(actions: list[Action], length: int, snapshots: int) -> tuple[int, int]:
    """Advances, and the most that any step was advanced, of actions that are checked against the rules of the game."""
    stored: set[int] = set()
    at, left, runs = 0, length, [0] * length
    for kind, i, _ in actions:
        if kind == "snapshot":
            assert i == at
            stored.add(i)
            assert len(stored) <= snapshots
        elif kind == "backward":
            left -= 1
            assert i == left
            stored.discard(i)
        else:
            assert i == at or i in stored
            at = i + 1
            runs[i] += kind == "forward"
    assert left == 0
    return sum(runs), max(runs)


@pytest.mark.parametrize(
    ("length", "snapshots", "count"), [(10, 3, 15), (20, 4, 39), (50, 5, 122), (100, 5, 316), (100, 10, 222)]
)
def test_binomial_counts(length: int, snapshots: int, count: int) -> None:
    assert advances(length, snapshots) == count


def test_binomial_counts_of_the_oracle() -> None:
    entries = json.loads(instance_path("revolve_oracle").read_text())
    assert len(entries) > 100
    for entry in entries:
        assert advances(entry["l"], entry["s"]) == entry["advances"]
        assert repetitions(entry["l"], entry["s"]) == entry["r"]


def test_the_split_is_optimal() -> None:
    for length in range(2, 101):
        for snapshots in range(2, 11):
            k = split(length, snapshots)
            assert k + advances(k, snapshots) + advances(length - k, snapshots - 1) == advances(length, snapshots)


def test_revolve_reaches_the_closed_form() -> None:
    for length in [*range(1, 31), 50, 77, 100]:
        for snapshots in range(1, 11):
            assert carried_out(list(revolve(length, snapshots)), length, snapshots)[0] == advances(length, snapshots)


def test_treeverse_bounds_repetitions_and_matches_where_both_apply() -> None:
    for length in [*range(1, 31), 56, 70, 84]:
        for snapshots in range(1, 9):
            count, most = carried_out(list(treeverse(length, snapshots)), length, snapshots)
            r = repetitions(length, snapshots)
            assert most <= r
            assert count >= advances(length, snapshots)
            if math.comb(snapshots + r, snapshots) == length:
                assert count == advances(length, snapshots)


@pytest.mark.parametrize("length", [6, 10, 20, 35])
@pytest.mark.parametrize("snapshots", [1, 2, 3, 4, 5])
def test_revolve_through_solve(length: int, snapshots: int) -> None:
    # Beside the snapshots, of which the first is free: the state that is moving, the next one and the trace of the step.
    solution = solve(unit_chain(length), snapshots - 1 + 3, solver="revolve")
    assert solution.cost == 2 * length + advances(length, snapshots)


@pytest.mark.parametrize("solver", ["revolve", "rotor"])
@pytest.mark.parametrize("length", [3, 10, 33, 100])
def test_linear_graphs_take_the_closed_form(solver: str, length: int) -> None:
    # Two bytes beside the snapshots: what a backward op reads and writes of gradients.
    for snapshots in (1, 2, 3, 6, 10):
        solution = solve(linear(length), snapshots + 2, solver=solver)
        assert solution.cost == length + max(length - 1, advances(length, snapshots))


def test_rotor_table_of_unit_chains() -> None:
    for length, costs in ((10, [64, 36, 29, 27, 25, 24]), (20, [229, 99, 75, 66, 58, 56])):
        ones = np.ones(length + 1, dtype=np.int64)
        stages = textbook_stages(ones[1:].astype(float), ones, ones[1:])
        best = table(stages, 8)[0, length - 1]
        assert best[2] == math.inf
        assert (best[3:] + length).tolist() == costs


def test_rotor_table_of_the_reference() -> None:
    entries = json.loads(instance_path("chains_rotor_reference").read_text())
    assert len(entries) > 30
    for entry in entries:
        length = len(entry["uf"]) if isinstance(entry["uf"], list) else entry["L"]
        forward, backward, activations, saved = (
            np.array(entry[key][:count] if isinstance(entry[key], list) else [entry[key]] * count)
            for key, count in (("uf", length), ("ub", length), ("cw", length + 1), ("cbw", length))
        )
        stages = textbook_stages(forward.astype(float), activations, saved)
        best = table(stages, entry["slots"])
        cost = float(best[0, length - 1, -1]) + float(backward.sum())
        known = entry["opt_ours"] or math.inf
        # The reference asks every interval to hold what running forward through it takes, also where the plan never does.
        assert cost == known if "unit" in entry["name"] or "VGG16" in entry["name"] else cost <= known
        if cost < math.inf:
            runs = [step for step, _, _ in steps(stages, best, 0, length - 1, entry["slots"])]
            times = [forward[a] if kind == "save" else forward[a:which].sum() for kind, a, which in runs]
            assert sum(times) == pytest.approx(cost - backward.sum(), rel=1e-5)


def test_rotor_says_where_nothing_fits() -> None:
    stages = textbook_stages(np.ones(3), np.ones(4, dtype=np.int64), np.ones(3, dtype=np.int64))
    with pytest.raises(ValueError, match="no persistent schedule"):
        list(steps(stages, table(stages, 1), 0, 2, 1))


@pytest.mark.parametrize("solver", ["checkmate", "rotor", "revolve"])
@pytest.mark.parametrize(
    ("name", "costs"), [("unit_linear_5", [21, 14, 13, 12, 11]), ("unit_linear_6", [28, 18, 16, 15, 14, 13])]
)
def test_optimal_costs_of_unit_chains(solver: str, name: str, costs: list[int]) -> None:
    graph, _ = instance(name)
    for budget, cost in enumerate(costs, 3):
        solution = solve(graph, budget, solver=solver)
        assert solution.cost == cost
        if solver == "checkmate":
            assert solution.status == "optimal"


def test_chen_takes_memory_of_the_order_of_the_root() -> None:
    peaks = {length: solve(unit_chain(length), 1, solver="chen").minimum for length in (25, 100, 400)}
    assert all(peak <= 2 * math.sqrt(length) + 5 for length, peak in peaks.items())
    assert peaks[400] < 3 * peaks[100] < 9 * peaks[25]


@pytest.mark.parametrize("solver", ["every-n", "chen", "revolve", "treeverse", "rotor"])
def test_long_chains_get_by_with_little(solver: str) -> None:
    graph = unit_chain(200)
    budget = baseline_peak(graph) // 4
    solution = solve(graph, budget, solver=solver)
    assert solution.status == "feasible"
    assert solution.cost <= 2 * graph.seconds


def test_a_value_that_crosses_everything_is_shared() -> None:
    # A table read by every layer: without sharing it there would be no cut.
    edges = [(0, 1)] + [(i, i + 1) for i in range(1, 9)] + [(0, i) for i in range(2, 9)]
    edges += [(9, 10)] + [(i, i + 1) for i in range(10, 18)] + [(18 - i, i) for i in range(10, 18)]
    graph = Graph.from_dag([1] * 19, [1] * 19, edges, backward=10)
    views = list(chains(Forward(Problem.of(graph))))
    assert any(len(view.stages) >= 8 and view.shared == {0} for view in views)
    solution = solve(graph, 7, solver="revolve")
    assert solution.status != "infeasible"
    assert "1 values that cross several" in solution.note


def test_what_counts_beside_the_chain_makes_no_cuts() -> None:
    """A convolution, the counter of its normalization, the normalization: the counter is read by nobody."""
    layers = 6
    storages, values, ops = [Storage(1, constant=True)], [Value("counter", 0)], []
    for layer in range(layers):
        before = (len(values) - 1,) if layer else ()
        for name, reads, size in (("convolution", before, 4), ("counter", (0,), 0), ("normalization", None, 4)):
            reads = (len(values) - 2,) if reads is None else reads
            ops.append(Op(f"{name}{layer}", reads, (len(values),), seconds=1.0))
            values.append(Value(f"{name}{layer}", len(storages)))
            storages.append(Storage(size))
    last = len(values) - 1
    ops.append(Op("backward", (last,), (last + 1,), seconds=1.0, phase="backward"))
    values.append(Value("gradient", len(storages)))
    storages.append(Storage(1))
    graph = Graph(tuple(ops), tuple(values), tuple(storages), results=(last + 1,), constants={"counters": 1})
    view = next(chains(Forward(Problem.of(graph))))
    assert not view.shared
    assert [len(stage.nodes) for stage in view.stages] == [1] + [2, 1] * (layers - 1) + [2]


def test_stages_divide_forward_and_backward() -> None:
    graph, _ = instance("checkmate_resnet50")
    problem = Task(graph, 1).problem
    forward = Forward(problem)
    for view in chains(forward):
        assert [node for stage in view.stages for node in stage.nodes] == forward.main
        ranges = [stage.backward for stage in reversed(view.stages)]
        assert ranges[0][0] == forward.start
        assert ranges[-1][1] == problem.n
        assert all(end == begin for (_, end), (begin, _) in pairwise(ranges))
