"""Files for viewers: they read them, and the bytes over time in them are the simulator's."""

from __future__ import annotations

import csv
import io
import json
import pickle
import pickletools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.cuda import _memory_viz

from remat_planner.planner.reports import summarize
from remat_planner.planner.reports.page.content import page_of
from remat_planner.planner.reports.page.html import page_html
from remat_planner.planner.reports.report_file import viewer_file
from remat_planner.schedules import Channel, Pool, RegionSchedule, Schedule
from tests.planner.layered_step import layered_graph, layered_schedule
from tests.planner.random_schedules import random_steps

_READABLE = {
    *("PROTO", "FRAME", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "STOP", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"),
}
_REGIONS = Path(__file__).resolve().parents[2] / "data" / "region_schedule_format_1.json"


def _schedules() -> list[Schedule]:
    region = next(iter(RegionSchedule.load(_REGIONS).regions.values()))
    graph = region.graph
    evicted = Schedule(graph, random_steps(graph, 3), budget=10**9, solver="", status="feasible", bound_seconds=0.0)
    layers = layered_schedule(12, recomputed=7)
    ops = tuple(replace(op, eager_workspace=40_000 if op.pinned else 0) for op in layers.graph.ops)
    return [layers, region, evicted, replace(layers, graph=replace(layers.graph, ops=ops))]


@pytest.mark.parametrize("schedule", _schedules(), ids=["layers", "region", "evicted at random", "more in eager"])
def test_the_trace(schedule: Schedule) -> None:
    events = json.loads(viewer_file(schedule, "perfetto"))["traceEvents"]
    planned, unplanned = ([event for event in events if event["pid"] == process] for process in (1, 2))
    for part, simulation, steps in (
        (planned, schedule.simulation, schedule.steps),
        (unplanned, schedule.baseline, range(len(schedule.graph.ops))),
    ):
        slices = [event for event in part if event["ph"] == "X"]
        assert [event["args"]["op"] for event in slices] == [schedule.graph.ops[i].name for i in steps]
        ends = [event["ts"] + event["dur"] for event in slices]
        assert ends[:-1] == pytest.approx([event["ts"] for event in slices[1:]])
        assert ends[-1] == pytest.approx(simulation.seconds * 1e6)
        counters = [event for event in part if event["ph"] == "C"]
        totals = [event["args"]["allocated"] for event in counters if event["name"] == "memory"]
        by_kind = [sum(event["args"].values()) for event in counters if event["name"] == "memory by kind"]
        assert totals == by_kind
        assert max(totals) == simulation.bytes.max()
    again = [event for event in planned if event.get("cat") == "recomputation"]
    assert len(again) == len(schedule.steps) - len(schedule.graph.ops)


@pytest.mark.parametrize("schedule", _schedules(), ids=["layers", "region", "evicted at random", "more in eager"])
def test_the_memory_snapshot(schedule: Schedule) -> None:
    data = viewer_file(schedule, "memory-viz")
    # The viewer reads pickles with a reader of its own, which knows protocols 2 to 4 and these opcodes.
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(data)}
    assert data[:2] == b"\x80\x04"
    assert opcodes <= _READABLE
    snapshot = pickle.loads(data)
    assert "category" not in str(snapshot)  # the viewer fails on categories unless one of them is "unknown"
    for device, simulation in enumerate((schedule.simulation, schedule.baseline)):
        (segment,) = (s for s in snapshot["segments"] if s["device"] == device)
        after = _replayed(snapshot["device_traces"][device], segment, simulation.bytes)
        lasting = {schedule.graph.values[value].storage for value in schedule.graph.results}
        assert sorted(after) == sorted(
            size for s in lasting if (size := schedule.graph.storages[s].bytes) and not schedule.graph.storages[s].constant
        )
    assert f"segments: {2}" in _memory_viz.segsum(snapshot)
    assert "alloc" not in _memory_viz.trace(snapshot).lower().replace("malloc", "")
    flames = _memory_viz.memory(snapshot, format_flamegraph=str)
    assert sum(int(line.rpartition(" ")[2]) for line in flames.splitlines()) == sum(
        segment["total_size"] for segment in snapshot["segments"]
    )
    assert "Active Memory Timeline" in _memory_viz.trace_plot(snapshot)


def _replayed(events: list[dict[str, Any]], segment: dict[str, Any], live: np.ndarray) -> list[int]:
    """Sizes of what the trace leaves allocated. Nothing overlaps, all is in the segment, and the peak is that of ``live``."""
    ends = [segment["address"]]
    for block in segment["blocks"]:
        assert block["address"] == ends[-1]
        ends.append(block["address"] + block["size"])
    assert ends[-1] == segment["address"] + segment["total_size"]
    there: dict[int, int] = {}
    allocated_here = {event["addr"] for event in events if event["action"] == "alloc"}
    at_end = {block["address"]: block["requested_size"] for block in segment["blocks"] if block["state"] == "active_allocated"}
    constants = sum(size for address, size in at_end.items() if address not in allocated_here)
    highest = constants
    for event in events:
        address, size = event["addr"], event["size"]
        if event["action"] == "alloc":
            assert segment["address"] <= address
            assert address + size <= ends[-1]
            assert all(address + size <= other or other + length <= address for other, length in there.items())
            there[address] = size
            highest = max(highest, constants + sum(there.values()))
            assert event["frames"][0]["filename"] != ""
        elif event["action"] == "free_completed":
            assert there.pop(address) == size
    assert highest == live.max()
    assert {address: at_end[address] for address in there} == there
    return list(there.values())


def test_the_table() -> None:
    schedule = layered_schedule(12, recomputed=7)
    rows = list(csv.DictReader(io.StringIO(viewer_file(schedule, "csv").decode())))
    assert [row["op"] for row in rows] == [schedule.graph.ops[i].name for i in schedule.steps]
    assert [int(row["bytes"]) for row in rows] == schedule.simulation.bytes.tolist()
    assert sum(float(row["seconds"]) for row in rows) == pytest.approx(schedule.seconds)
    assert sum(int(row["recomputed"]) for row in rows) == 7
    kinds = [name for name in rows[0] if name.endswith("_bytes")]
    assert int(rows[-1]["bytes"]) == sum(int(rows[-1][kind]) for kind in kinds) + schedule.graph.constant_bytes


def test_no_name_in_the_table_is_a_formula() -> None:
    schedule = layered_schedule(1, recomputed=0)
    ops = tuple(replace(op, name=f"={op.name}", module="@SUM(A1)") for op in schedule.graph.ops)
    text = viewer_file(replace(schedule, graph=replace(schedule.graph, ops=ops)), "csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["module"] for row in rows} == {"'@SUM(A1)"}
    assert all(row["op"].startswith("'=") for row in rows)


def test_regions_are_told_apart() -> None:
    schedule = RegionSchedule.load(_REGIONS)
    rows = list(csv.DictReader(io.StringIO(viewer_file(schedule, "csv").decode())))
    assert {row["region"] for row in rows} == set(schedule.regions)
    names = [
        e["args"]["name"] for e in json.loads(viewer_file(schedule, "perfetto"))["traceEvents"] if e["name"] == "process_name"
    ]
    assert names == [f"blocks.{n}: {step}" for n in (0, 1) for step in ("this plan", "without recomputation")]
    assert len(pickle.loads(viewer_file(schedule, "memory-viz"))["device_traces"]) == 4


@pytest.mark.slow
def test_transfers_are_shown_beside_the_ops() -> None:
    graph = layered_graph(3).with_transfers([Pool("host", 10**6, Channel(1e6), Channel(1e6))])
    copy = graph.copy_steps(graph.allocated[graph.by_name["layers.0.mlp.gelu"]][0])
    plain = list(range(len(graph.ops)))
    at = graph.by_name["layers.0.weight_gradient"]
    steps = (*plain[:3], copy.store, copy.release, *plain[3:at], copy.load, *plain[at:])
    schedule = Schedule(graph, steps, budget=10**9, solver="", status="feasible", bound_seconds=0.0)
    events = json.loads(viewer_file(schedule, "perfetto"))["traceEvents"]
    threads = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name" and event["pid"] == 1}
    assert set(threads) == {"compute", "stores, host", "loads, host"}
    (load,) = (e for e in events if e["ph"] == "X" and e["pid"] == 1 and e["tid"] == threads["loads, host"])
    assert load["dur"] == pytest.approx(4000 / 1e6 * 1e6)
    totals = [event["args"]["allocated"] for event in events if event["name"] == "memory" and event["pid"] == 1]
    assert max(totals) == schedule.peak_bytes
    rows = list(csv.DictReader(io.StringIO(viewer_file(schedule, "csv").decode())))
    assert [row["phase"] for row in rows].count("transfer") == 3
    assert {row["recomputed"] for row in rows} == {"0"}
    snapshot = pickle.loads(viewer_file(schedule, "memory-viz"))
    _replayed(snapshot["device_traces"][0], snapshot["segments"][0], schedule.simulation.bytes)
    page = page_html(page_of(summarize(schedule), "a budget"))
    assert f"over all {len(steps)} executions" in page
