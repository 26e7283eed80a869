"""What differs is said in words that lead to the cause."""

from __future__ import annotations

import dataclasses

from remat_planner.schedules import Graph, Origin, Value, differences, origin_differences


def _graph() -> Graph:
    return Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (1, 2)])


def test_the_same_step_differs_in_nothing() -> None:
    assert differences(_graph(), _graph()) == ()


def test_ops_shapes_and_wiring() -> None:
    graph = _graph()
    longer = Graph.from_dag([1] * 4, [4, 5, 6, 7], [(0, 1), (1, 2), (2, 3)])
    assert "3 ops planned, 4 found" in differences(graph, longer)
    other_kind = dataclasses.replace(graph, ops=(*graph.ops[:2], dataclasses.replace(graph.ops[2], kind="aten.mm")))
    assert "aten.mm" in differences(graph, other_kind)[0]
    reshaped = dataclasses.replace(graph, values=(Value("v0", 0, (8,), "float32"), *graph.values[1:]))
    assert "float32[8] found" in differences(graph, reshaped)[0]
    rewired = Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (0, 2)])
    assert "wiring" in differences(graph, rewired)[0]


def test_parameters_and_inputs() -> None:
    planned = Origin(parameters={"w": "float32[2]", "b": "float32[1]"}, inputs={"x": "float32[4]"})
    found = Origin(parameters={"w": "float32[3]", "c": "float32[1]"}, inputs={"x": "float32[4]"})
    assert origin_differences(planned, planned) == ()
    assert origin_differences(planned, found) == (
        "parameter or buffer w: float32[2] planned, float32[3] found",
        "parameter or buffer b: float32[1] planned, none found",
        "parameter or buffer c: float32[1] found, none planned",
    )
    many = Origin(parameters={f"p{i}": "float32[1]" for i in range(30)})
    lines = origin_differences(many, Origin())
    assert len(lines) == 8
    assert lines[-1] == "and 23 more"
