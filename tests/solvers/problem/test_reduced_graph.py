"""The reduced form agrees with the graph: same peak, same seconds, valid steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, InvalidScheduleError, Op, Storage, Value, simulate
from remat_planner.solvers.problem.reduced_graph import Problem
from tests.sampling import examples


@st.composite
def graphs(draw: st.DrawFn, max_ops: int = 12) -> Graph:
    """Graphs with views, chains of views, constants, several outputs, in-place results, results, pinned ops and random ops."""
    storages = [Storage(7, constant=True)]
    values = [Value("p", 0)]
    ops: list[Op] = []
    for i in range(draw(st.integers(1, max_ops))):
        kind = draw(st.sampled_from(["op", "op", "op", "view", "view", "many", "in_place", "nothing"]))
        reads = draw(st.lists(st.integers(0, len(values) - 1), max_size=3, unique=True))
        writes = []
        seconds = float(draw(st.integers(0, 5)))
        if kind in ("view", "in_place") and reads:
            target = reads[0]
            reads = reads[:1] if kind == "view" else reads
            seconds = 0.0 if kind == "view" else seconds + 1.0
            writes.append(len(values))
            values.append(Value(f"v{len(values)}", values[target].storage))
        elif kind != "nothing":
            for _ in range(draw(st.integers(2, 3)) if kind == "many" else 1):
                writes.append(len(values))
                values.append(Value(f"v{len(values)}", len(storages)))
                storages.append(Storage(draw(st.integers(0, 9))))
        ops.append(
            Op(
                f"op{i}",
                tuple(reads),
                tuple(writes),
                seconds=seconds,
                workspace=0 if kind == "view" else draw(st.integers(0, 3)),
                pinned="test" if kind != "view" and draw(st.integers(0, 5)) == 0 else None,
                replay_bytes=draw(st.integers(0, 2)) if kind == "op" else 0,
            )
        )
    results = draw(st.lists(st.integers(0, len(values) - 1), max_size=2, unique=True))
    return Graph(tuple(ops), tuple(values), tuple(storages), results=tuple(results), constants={"parameters": 7})


def some_nodes(problem: Problem, choose: st.DataObject) -> list[int]:
    """The execution order with recomputation put in at random: what is stale or missing is computed before its reader."""
    nodes: list[int] = []
    seen: dict[int, int] = {}
    instance = [-1] * problem.m
    count = 0

    def run(node: int) -> None:
        nonlocal count
        for item in problem.reads[node]:
            if instance[item] < 0 or instance[item] != instance[problem.base[item]]:
                run(int(problem.producer[item]))
        nodes.append(node)
        seen[node] = 1
        for item in problem.writes[node]:
            count += 1
            instance[item] = count if problem.base[item] == item else instance[problem.base[item]]

    for node in range(problem.n):
        for earlier in choose.draw(st.lists(st.integers(0, max(0, node - 1)), max_size=2)) if node else ():
            if not problem.pinned[earlier]:
                run(earlier)
        run(node)
    return nodes


@pytest.mark.slow
@examples(400)
@given(graphs(), st.data())
def test_node_level_is_the_op_level(graph: Graph, data: st.DataObject) -> None:
    problem = Problem.of(graph)
    nodes = some_nodes(problem, data)
    try:
        here = problem.simulate(nodes)
    except InvalidScheduleError:  # a stale in-place result behind a pinned op
        assert bool(problem.pinned.any())
        return
    there = simulate(graph, problem.expand(nodes))
    assert here.peak_bytes == there.peak_bytes
    assert here.seconds == there.seconds


@examples(100)
@given(graphs())
def test_the_execution_order_keeps_its_peak(graph: Graph) -> None:
    problem = Problem.of(graph)
    assert simulate(graph, problem.expand(range(problem.n))).peak_bytes <= simulate(graph, range(len(graph.ops))).peak_bytes
    assert problem.seconds == pytest.approx(graph.seconds)


@examples(50)
@given(graphs(), st.data())
def test_nodes_of_undoes_expand(graph: Graph, data: st.DataObject) -> None:
    problem = Problem.of(graph)
    nodes = some_nodes(problem, data)
    assert problem.nodes_of(problem.expand(nodes)) == nodes
