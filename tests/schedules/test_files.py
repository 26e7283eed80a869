"""Schedule files: what goes in comes out, and what is damaged is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remat_planner.schedules import Graph, Origin, Schedule, ScheduleFileError, simulate
from tests.strategies import graphs, schedules


def _schedule(graph: Graph, steps: list[int]) -> Schedule:
    origin = Origin(model="M", parameters={"w": "float32[2]"}, inputs={"0": "int64[3]"}, versions={"torch": "2.13.0"})
    budget = simulate(graph, steps).peak_bytes + 9
    return Schedule(graph, tuple(steps), budget, "ilp", "feasible", 0.5, "any schedule", origin)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    graph = data.draw(graphs())
    schedule = _schedule(graph, data.draw(schedules(graph)))
    schedule.save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json")
    assert (loaded.graph, loaded.steps, loaded.origin) == (schedule.graph, schedule.steps, schedule.origin)
    assert (loaded.peak_bytes, loaded.seconds, loaded.fingerprint) == (
        schedule.peak_bytes,
        schedule.seconds,
        schedule.fingerprint,
    )
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    graph = Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (1, 2), (0, 2)])
    path = tmp_path / "s.json"
    _schedule(graph, [0, 1, 0, 2]).save(path)
    return path


def _edited(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_truncated(written: Path) -> None:
    written.write_text(written.read_text()[:200])
    with pytest.raises(ScheduleFileError, match="truncated"):
        Schedule.load(written)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format": "a recipe"}, "not a schedule file"),
        ({"peak_bytes": 1}, "its steps reach"),
        ({"steps": ["op0", "op2", "op1"]}, "cannot run"),
        ({"steps": ["op0", "op1", "op2", "op9"]}, "'op9'"),
        ({"fingerprint": "0"}, "fingerprint"),
        ({"seconds": "soon"}, "seconds"),
        ({"graph": {"ops": []}}, "graph"),
        ({"budget_bytes": 3}, "above its own budget of 3"),
        ({"bound_seconds": float("nan")}, "no numbers"),
    ],
)
def test_damaged(written: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleFileError, match=words):
        Schedule.load(_edited(written, **changes))


def test_what_no_schedule_file_holds(written: Path) -> None:
    text = written.read_text()[:-2]
    for more in (', "x": ' + "[" * 100_000 + "]" * 100_000 + "}", ', "x": ' + "9" * 5_000 + "}"):
        written.write_text(text + more)
        with pytest.raises(ScheduleFileError, match="nested or has numbers"):
            Schedule.load(written)


@pytest.mark.parametrize("change", [{"workspace": 2**64}, {"seconds": 1e308}, {"replay_bytes": 2**63 - 1}])
def test_numbers_beyond_any_machine(written: Path, change: dict[str, float]) -> None:
    content = json.loads(written.read_text())
    for op in content["graph"]["ops"]:
        op.update(change)
    with pytest.raises(ScheduleFileError):
        Schedule.load(_edited(written, graph=content["graph"]))


def test_binary(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScheduleFileError, match="not a text file"):
        Schedule.load(tmp_path / "b")


def test_nothing_is_left_where_writing_fails(tmp_path: Path, written: Path) -> None:
    with pytest.raises(OSError):
        Schedule.load(written).save(tmp_path / "no such folder" / "s.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        Schedule.load(written).save(tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "taken"]


def test_a_device_stays_a_device(written: Path) -> None:
    Schedule.load(written).save("/dev/null")
    assert not Path("/dev/null").is_file()
