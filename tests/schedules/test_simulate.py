"""The simulator against a slow and obvious one, and against peaks known by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remat_planner.schedules import Graph, InvalidScheduleError, Op, Schedule, Storage, Value, simulate
from tests.sampling import examples
from tests.schedules.slow_simulator import reference
from tests.strategies import graphs, schedules


@pytest.mark.slow
@examples(400)
@given(st.data())
def test_agrees_with_the_reference(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    steps = data.draw(schedules(graph))
    simulation = simulate(graph, steps)
    seconds, memory = reference(graph, steps)
    assert simulation.seconds == pytest.approx(seconds)
    assert simulation.bytes.tolist() == memory
    assert simulation.peak_bytes == max(memory)
    assert memory[simulation.peak_step] == max(memory)


def test_a_chain_by_hand() -> None:
    # 0 -> 1 -> 2 -> 3(2, 1) -> 4(3, 0): forward outputs are kept for the backward.
    graph = Graph.from_dag([1] * 5, [10, 20, 30, 40, 50], [(0, 1), (1, 2), (2, 3), (1, 3), (3, 4), (0, 4)], backward=3)
    assert simulate(graph, range(5)).bytes.tolist() == [10, 30, 60, 100, 100]
    # Dropping 0 after 1 and computing it again just before 4.
    again = simulate(graph, [0, 1, 2, 3, 0, 4])
    assert again.bytes.tolist() == [10, 30, 50, 90, 50, 100]
    assert again.seconds == 6


def test_a_view_keeps_its_base_alive_and_costs_nothing() -> None:
    values = (Value("a", 0), Value("view of a", 0), Value("b", 1), Value("c", 2))
    ops = (Op("a", (), (0,)), Op("view", (0,), (1,)), Op("b", (), (2,)), Op("c", (1, 2), (3,)))
    graph = Graph(ops, values, (Storage(8), Storage(4), Storage(2)))
    assert simulate(graph, range(4)).bytes.tolist() == [8, 8, 12, 14]
    # A recomputed base is another allocation; the old view still holds the old one.
    assert simulate(graph, [0, 1, 2, 0, 3]).bytes.tolist() == [8, 8, 12, 20, 14]


def test_results_last_and_constants_count_throughout() -> None:
    values = (Value("parameter", 0), Value("out", 1), Value("gradient", 2))
    ops = (Op("forward", (0,), (1,), workspace=5), Op("backward", (0,), (2,), phase="backward"))
    graph = Graph(ops, values, (Storage(100, constant=True), Storage(8), Storage(4)), (1, 2), {"parameters": 100})
    assert simulate(graph, range(2)).bytes.tolist() == [113, 112]


def test_replay_state_is_held_between_the_first_and_the_last_run() -> None:
    graph = Graph(
        (Op("mask", (), (0,), replay_bytes=16), Op("use", (0,), (1,))), (Value("m", 0), Value("u", 1)), (Storage(1), Storage(1))
    )
    assert simulate(graph, [0, 1]).bytes.tolist() == [1, 2]
    assert simulate(graph, [0, 0, 1]).bytes.tolist() == [17, 17, 2]


@pytest.mark.parametrize(
    ("steps", "step", "op", "words"),
    [
        ([1, 0], 0, "op1", "not computed by then"),
        ([0], None, "op1", "never runs"),
        ([0, 1, 7], 2, "7", "has 2 ops"),
        ([0, 1, -1], 2, "-1", "has 2 ops"),
    ],
)
def test_sequences_that_cannot_run(steps: list[int], step: int | None, op: str, words: str) -> None:
    graph = Graph.from_dag([1, 1], [1, 1], [(0, 1)])
    with pytest.raises(InvalidScheduleError, match=words) as caught:
        simulate(graph, steps)
    assert (caught.value.step, caught.value.op) == (step, op)


def test_a_pinned_op_runs_once() -> None:
    graph = Graph((Op("route", (), (0,), pinned="routing may flip"),), (Value("r", 0),), (Storage(1),))
    assert simulate(graph, [0]).peak_bytes == 1
    with pytest.raises(InvalidScheduleError, match="routing may flip"):
        simulate(graph, [0, 0])


def test_the_framework_takes_bytes_of_its_own(tmp_path: Path) -> None:
    graph = Graph.from_dag([1, 1], [4, 4], [(0, 1)])
    graph = replace(graph, ops=(graph.ops[0], replace(graph.ops[1], eager_workspace=100)))
    schedule = Schedule(graph, (0, 1), budget=8, solver="none", status="feasible", bound_seconds=0.0)
    schedule.save(tmp_path / "it.json")
    for one in (schedule, Schedule.load(tmp_path / "it.json")):
        assert (one.peak_bytes, one.baseline_peak_bytes) == (8, 108)
    assert graph.fingerprint == graph.eager.fingerprint


def test_the_framework_computes_in_the_memory_of_another_value(tmp_path: Path) -> None:
    """It keeps all of the product, of which the third op writes over a slice; the plan keeps the slice alone."""
    chain = Graph.from_dag([1, 1, 1, 1], [8, 2, 8, 1], [(0, 1), (1, 2), (1, 3)])
    values = (chain.values[0], replace(chain.values[1], eager_base=0), *chain.values[2:])
    schedule = Schedule(replace(chain, values=values), range(4), budget=10, solver="none", status="feasible", bound_seconds=0.0)
    schedule.save(tmp_path / "it.json")
    for one in (schedule, Schedule.load(tmp_path / "it.json")):
        assert (one.peak_bytes, one.baseline_peak_bytes) == (10, 16)
