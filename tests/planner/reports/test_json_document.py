"""The JSON document says what the schedule says, under the keys that programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remat_planner.planner.reports.json_document import plan_document
from remat_planner.planner.reports.policy_comparison import PolicyCost
from remat_planner.planner.reports.region_summary import summarize_regions
from remat_planner.planner.reports.whole_summary import summarize
from remat_planner.schedules import RegionSchedule
from tests.planner.layered_step import layered_schedule

_POLICIES = [PolicyCost("none", 29_000, 0.0, False), PolicyCost("every-n", 20_000, 0.25, True)]


def test_the_document_is_json_and_says_the_same() -> None:
    schedule = layered_schedule(12, recomputed=7)
    document = json.loads(json.dumps(plan_document(summarize(schedule, comparison=_POLICIES, path="net.schedule.json"))))
    assert document["peak_bytes"] == schedule.peak_bytes == sum(document["memory_at_peak"].values())
    assert document["overhead"] == pytest.approx(schedule.seconds / schedule.baseline_seconds - 1)
    assert document["comparison"][1] == {"solver": "every-n", "peak_bytes": 20_000, "overhead": 0.25, "fits": True}
    assert document["pinned"] == {"loss.backward": "it is the loss"}
    assert document["verification"] is None


def test_the_keys_of_a_whole_schedule() -> None:
    document = plan_document(summarize(layered_schedule(2, recomputed=1)))
    assert list(document) == [
        *("report_version", "model", "device", "costs", "optimizer", "gradient_dtype", "master_weights", "shard", "zero_stage"),
        *(
            "optimizer_offload",
            "accumulate",
            "outputs",
            "gradient_buckets",
            "fingerprint",
            "ops",
            "steps",
            "budget_bytes",
            "budget_on",
        ),
        *(
            "peak_bytes",
            "optimizer_step_peak_bytes",
            "baseline_peak_bytes",
            "seconds",
            "baseline_seconds",
            "bound_seconds",
            "scatter",
        ),
        *("overhead", "bound_overhead", "gap", "status", "solver", "assumption", "forms", "ranges", "comparison", "neighbours"),
        *(
            "memory_at_peak",
            "held_outputs",
            "reserved",
            "offload",
            "copies_instead",
            "activations",
            "modules",
            "operators",
            "inexact",
            "pinned",
            "verification",
            "schedule",
        ),
    ]


def test_the_keys_of_a_schedule_by_regions() -> None:
    schedule = RegionSchedule.load(Path(__file__).resolve().parents[2] / "data" / "region_schedule_format_1.json")
    document = json.loads(json.dumps(plan_document(summarize_regions(schedule, path="net.schedule.json"))))
    assert list(document) == [
        *("report_version", "model", "device", "costs", "optimizer", "budget_bytes", "peak_bytes", "baseline_peak_bytes"),
        *("constants", "region_seconds", "baseline_region_seconds", "region_overhead", "regions", "activations", "pool_bytes"),
        *("verification", "schedule"),
    ]
    assert [group["regions"] for group in document["regions"]] == [[name] for name in schedule.regions]
    assert (document["peak_bytes"], document["schedule"]) == (schedule.peak_bytes, "net.schedule.json")
