"""Schedule files: what goes in comes out, and what is damaged is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remat_planner.schedules import (
    Channel,
    Graph,
    Origin,
    Pool,
    RegionSchedule,
    Schedule,
    ScheduleFileError,
    load_schedule,
    simulate,
)
from tests.strategies import graphs, schedules
from tests.transfers import FREE, transfer_schedules, with_pools


def _schedule(graph: Graph, steps: list[int]) -> Schedule:
    origin = Origin(model="M", parameters={"w": "float32[2]"}, inputs={"0": "int64[3]"}, versions={"torch": "2.13.0"})
    budget = simulate(graph, steps).peak_bytes + 9
    return Schedule(graph, tuple(steps), budget, "ilp", "feasible", 0.5, "any schedule", origin)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    graph = data.draw(graphs())
    steps = data.draw(schedules(graph))
    if data.draw(st.booleans()):
        graph = data.draw(with_pools(graph))
        steps = data.draw(transfer_schedules(graph, steps))
    schedule = _schedule(graph, steps)
    schedule.save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json")
    assert (loaded.graph, loaded.steps, loaded.origin) == (schedule.graph, schedule.steps, schedule.origin)
    assert (loaded.peak_bytes, loaded.seconds, loaded.fingerprint) == (
        schedule.peak_bytes,
        schedule.seconds,
        schedule.fingerprint,
    )
    assert loaded.pool_peak_bytes == schedule.pool_peak_bytes
    # An old planner reads what has no transfers, and refuses what has.
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["format_version"] == (2 if graph.pools else 1)
    assert graph.pools or not {"pools", "copied", "pool_peak_bytes"} & {*content, *content["graph"]}
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


@pytest.fixture
def with_copies(tmp_path: Path) -> Path:
    graph = Graph.from_dag([1, 2, 3], [4, 5, 6], [(0, 1), (1, 2), (0, 2)]).with_transfers([Pool("host", 9, FREE, Channel(2.0))])
    copy = graph.copy_steps(0)
    path = tmp_path / "s.json"
    _schedule(graph, [0, copy.store, 1, copy.release, copy.load, 2]).save(path)
    return path


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("format_version", 1, "pools for copies in a file of format version 1"),
        ("pool_peak_bytes", {}, "claims no copies in the pools, but its steps copy {'host': 4}"),
        ("pool_peak_bytes", {"host": 3}, "claims {'host': 3} in the pools"),
        ("graph.pools", [], "the steps run 'store op0 to host'"),
        ("graph.copied", [7], "storage 7 cannot be copied"),
        ("graph.pools.0.budget", 3, "take 4 bytes, above the host budget of 3"),
        ("graph.pools.0.budget", -1, "the host budget is -1 bytes"),
        ("graph.pools.0.budget", float("nan"), "graph"),
        ("graph.pools.0.name", "/etc", "'host' or 'disk'"),
        ("graph.pools.0.block", 2**70, "beyond any machine|above the host budget"),
        ("graph.pools.0.outgoing.bytes_per_second", 0, "cannot copy 0.0 bytes per second"),
        ("graph.pools.0.outgoing.bytes_per_second", float("nan"), "cannot copy nan bytes"),
        ("graph.pools.0.incoming.bytes_per_second", 1e-320, "no numbers"),
        ("graph.pools.0.incoming.latency", float("inf"), "latency of inf"),
        ("graph.pools.0.incoming.slowdown", 0, "factor of 0.0"),
        ("graph.pools.0.incoming.source", "a friend", "'measured', 'table' or 'given'"),
        ("steps", ["op0", "load op0 from host", "op1", "op2"], "which no step before it has stored"),
    ],
)
def test_damaged_transfers(with_copies: Path, where: str, value: object, words: str) -> None:
    assert Schedule.load(with_copies).pool_peak_bytes == {"host": 4}
    content = json.loads(with_copies.read_text())
    *path, last = where.split(".")
    place = content
    for key in path:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    with pytest.raises(ScheduleFileError, match=words):
        Schedule.load(_edited(with_copies, **content))


def test_a_schedule_by_regions_has_the_version_of_its_regions(with_copies: Path, tmp_path: Path) -> None:
    region = Schedule.load(with_copies)
    path = tmp_path / "regions.json"
    plain = Schedule(region.graph.without_transfers, (0, 1, 2), region.budget, "none", "feasible", 0.0)
    for regions, version in (({"a": plain}, 1), ({"a": plain, "b": region}, 2)):
        RegionSchedule(regions, dict.fromkeys(regions, 1), budget=99, peak_bytes=9, baseline_peak_bytes=9).save(path)
        assert json.loads(path.read_text())["format_version"] == version
        loaded = load_schedule(path)
        assert isinstance(loaded, RegionSchedule)
        assert {name: one.steps for name, one in loaded.regions.items()} == {name: one.steps for name, one in regions.items()}


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
