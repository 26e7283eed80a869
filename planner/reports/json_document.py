"""A plan as one JSON document: what the printed report says, with exact numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from remat_planner.planner.gpu_allocator import reserved_by
from remat_planner.planner.reports.activations import saved_activations
from remat_planner.planner.reports.peak_memory import memory_at_peak
from remat_planner.planner.reports.policy_comparison import Row
from remat_planner.schedules import Schedule

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification

REPORT_VERSION = 1


def plan_document(
    schedule: Schedule, *, comparison: Sequence[Row], verification: Verification | None = None, path: str | None = None
) -> dict[str, Any]:
    """The report of ``schedule``: bytes, seconds and fractions (an overhead of 0.02 is 2 %), nothing rounded.

    ``path`` is where the schedule was written; None where it was not.
    """
    graph = schedule.graph
    reserved = reserved_by(schedule)
    return {
        "report_version": REPORT_VERSION,
        "model": schedule.origin.model,
        "device": schedule.origin.device,
        "costs": schedule.origin.costs,
        "optimizer": schedule.origin.optimizer,
        "gradient_dtype": schedule.origin.gradient_dtype,
        "master_weights": schedule.origin.master_weights,
        "shard": schedule.origin.shard,
        "zero_stage": schedule.origin.zero_stage,
        "optimizer_offload": schedule.origin.optimizer_offload,
        "accumulate": schedule.origin.accumulate,
        "gradient_buckets": schedule.origin.gradient_buckets,
        "fingerprint": schedule.fingerprint,
        "ops": len(graph.ops),
        "steps": len(schedule.steps),
        "budget_bytes": schedule.budget,
        "budget_on": schedule.origin.budget_on,
        "peak_bytes": schedule.peak_bytes,
        "optimizer_step_peak_bytes": graph.update_peak if graph.update else None,
        "baseline_peak_bytes": schedule.baseline_peak_bytes,
        "seconds": schedule.seconds,
        "baseline_seconds": schedule.baseline_seconds,
        "bound_seconds": schedule.bound_seconds,
        "overhead": schedule.overhead,
        "bound_overhead": schedule.bound_overhead,
        "gap": schedule.overhead - schedule.bound_overhead,
        "status": schedule.status,
        "solver": schedule.solver,
        "assumption": schedule.assumption,
        "forms": [_form_document(form) for form in schedule.forms],
        "comparison": [asdict(row) for row in comparison],
        "memory_at_peak": memory_at_peak(schedule),
        "reserved": None if reserved is None else asdict(reserved) | {"setting": reserved.setting},
        "activations": [asdict(group) for group in saved_activations(schedule)],
        "pinned": {op.name: op.pinned for op in graph.ops if op.pinned is not None},
        "verification": verification_document(verification) if verification is not None else None,
        "schedule": path,
    }


def _form_document(form: Schedule) -> dict[str, Any]:
    """One form of input and what its own schedule takes."""
    return {
        "inputs": dict(form.origin.inputs),
        "peak_bytes": form.peak_bytes,
        "baseline_peak_bytes": form.baseline_peak_bytes,
        "seconds": form.seconds,
        "baseline_seconds": form.baseline_seconds,
        "status": form.status,
    }


def verification_document(verification: Verification) -> dict[str, Any]:
    """What a run of the real steps showed."""
    return {
        "identical": verification.identical,
        "within_budget": verification.within_budget,
        "measured_peak_bytes": verification.measured_peak_bytes,
        "predicted_peak_bytes": verification.predicted_peak_bytes,
    }
