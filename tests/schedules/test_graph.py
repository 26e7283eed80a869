"""Graphs refuse what no step can be, and recognise the same step."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given

from remat_planner.schedules import Graph, GraphError, Op, Storage, Value, simulate
from tests.instances import instance_path
from tests.strategies import graphs


@pytest.mark.parametrize(
    ("costs", "sizes", "edges", "words"),
    [
        ([1, 1], [1, 1], [(1, 0)], "points backwards"),
        ([1, 1], [1, 1], [(0, 0)], "points backwards"),
        ([1, 1], [1, 1], [(0, 2)], "nowhere"),
        ([1, -1], [1, 1], [], "zero or more"),
        ([1, float("nan")], [1, 1], [], "finite"),
        ([1, float("inf")], [1, 1], [], "finite"),
        ([1, 1], [1, -1], [], "negative"),
        ([1, 1], [1, float("nan")], [], "whole numbers"),
        ([1, 1], [1, 0.5], [], "whole numbers"),
        ([1, 1], [1], [], "one of each"),
    ],
)
def test_malformed_instances(costs: list[float], sizes: list[int], edges: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(GraphError, match=words):
        Graph.from_dag(costs, sizes, edges)


def test_malformed_graphs() -> None:
    a, b = Value("a", 0), Value("b", 0)
    with pytest.raises(GraphError, match="without reading"):
        Graph((Op("x", (), (0,)), Op("y", (), (1,))), (a, b), (Storage(1),))
    with pytest.raises(GraphError, match="two ops are named"):
        Graph((Op("x", (), (0,)), Op("x", (0,), (1,))), (a, b), (Storage(1),))
    with pytest.raises(GraphError, match="before anything"):
        Graph((Op("x", (0,), (1,)),), (a, b), (Storage(1),))
    with pytest.raises(GraphError, match="written by two"):
        Graph((Op("x", (), (0,)), Op("y", (0,), (0,))), (a,), (Storage(1),))
    with pytest.raises(GraphError, match="lives in storage 3"):
        Graph((), (Value("a", 3),), (Storage(1),))


def test_backward_as_flags_or_as_an_index() -> None:
    by_index = Graph.from_dag([1] * 3, [1] * 3, [], backward=2)
    by_flags = Graph.from_dag([1] * 3, [1] * 3, [], backward=[False, False, True])
    assert [op.phase for op in by_index.ops] == ["forward", "forward", "backward"]
    assert by_index.fingerprint == by_flags.fingerprint


@pytest.mark.slow
@given(graphs())
def test_the_fingerprint_sees_what_is_computed_and_not_what_it_costs(graph: Graph) -> None:
    dearer = dataclasses.replace(graph, ops=tuple(dataclasses.replace(op, seconds=op.seconds + 1) for op in graph.ops))
    larger = dataclasses.replace(graph, storages=tuple(dataclasses.replace(s, bytes=s.bytes + 1) for s in graph.storages))
    assert dearer.fingerprint == graph.fingerprint
    assert larger.fingerprint != graph.fingerprint


@pytest.mark.parametrize("name", ["checkmate_resnet50", "rlg4_n1000", "unit_linear_5"])
def test_published_instances_have_their_published_peak(name: str) -> None:
    instance = json.loads(instance_path(name).read_text())
    nodes = instance["nodes"]
    graph = Graph.from_dag(
        [node["cost"] for node in nodes], [node["mem"] for node in nodes], instance["edges"], [node["bwd"] for node in nodes]
    )
    simulation = simulate(graph, range(len(nodes)))
    assert simulation.peak_bytes == instance["peak_no_remat"]
    assert simulation.seconds == instance["total_cost"]
    assert set(graph.dag().edges) == {tuple(edge) for edge in instance["edges"]}
