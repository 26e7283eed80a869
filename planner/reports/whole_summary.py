"""The summary of a schedule for a whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from remat_planner.planner.gpu_allocator import reserved_by
from remat_planner.planner.reports.activations import Activations, saved_activations
from remat_planner.planner.reports.breakdown import Breakdown, by_module, by_operator
from remat_planner.planner.reports.budget_neighbours import Neighbour
from remat_planner.planner.reports.copies import OffloadSummary, summarize_offload
from remat_planner.planner.reports.copies_instead import CopiesInstead
from remat_planner.planner.reports.held_outputs import HeldOutputs, held_outputs
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.peak_memory import memory_at_peak, peak_is_update
from remat_planner.planner.reports.policy_comparison import PolicyCost
from remat_planner.planner.reports.summary import (
    INLINE,
    NOT_IN_DOCUMENT,
    VerificationSummary,
    summarize_verification,
)
from remat_planner.planner.reports.timeline import MemoryCurve, memory_curve
from remat_planner.schedules import BudgetOn, Schedule, Status, TrainingState, Transfer, planned_ranges

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification


@dataclass(frozen=True)
class WholeSummary:
    """What a report says about a schedule for a whole model; fields that ``Summary`` has are described there.

    Attributes:
        training: how gradients, parameters and the optimizer are kept.
        fingerprint: SHA-256 of the graph.
        ops: number of ops in the graph.
        steps: number of op executions in the schedule.
        budget_on: what the budget limits: "allocated" or "reserved" bytes.
        optimizer_step_peak_bytes: peak of the optimizer's step alone; None where it takes nothing.
        seconds: of the step, recomputation included.
        baseline_seconds: of the step without recomputation.
        bound_seconds: no schedule within the budget takes less, under ``assumption``.
        scatter: by how much the measured seconds of the ops scatter, as a fraction of the step.
        overhead: extra time as a fraction of ``baseline_seconds``.
        bound_overhead: the least ``overhead`` that the bound allows.
        gap: the difference of the two.
        status: "optimal" or "feasible".
        solver: name of the solver that found the schedule.
        assumption: the class of schedules that the bound covers.
        forms: the input shapes that were planned, each with its own schedule; the report describes the first.
        ranges: the ranges of sizes for which the plan holds, "tokens=128..4096"; empty where it is for these shapes alone.
        comparison: the usual policies at the same budget.
        neighbours: what a little more memory would give and a little less would cost; empty where nobody asked.
        memory_at_peak: bytes of each kind of memory at the peak.
        held_outputs: what it costs that the loop holds the outputs; None where the peak would be the same without it.
        reserved: what the GPU's allocator reserves; None for a plan for a CPU.
        offload: what the schedule copies beside the device; None where it was planned without.
        copies_instead: what copies on the host would give, on paper; None where that is not known.
        activations: what the backward reads of the forward, the largest first.
        modules: what each module takes at the peak, and what its recomputation costs and saves.
        operators: the same for each operator.
        inexact: how the plan computes otherwise than eager, and rounds otherwise; empty where it promises eager's bits.
        pinned: the ops that run exactly once whatever the budget.
        peak_moment: the moment of the peak in words.
        curve: memory over one step.
    """

    schedule_class: ClassVar[str] = "Schedule"

    model: str
    device: str
    costs: str
    optimizer: str | None
    training: TrainingState = field(metadata=INLINE)
    fingerprint: str
    ops: int
    steps: int
    budget_bytes: int
    budget_on: BudgetOn
    peak_bytes: int
    optimizer_step_peak_bytes: int | None
    baseline_peak_bytes: int
    seconds: float
    baseline_seconds: float
    bound_seconds: float
    scatter: float
    overhead: float
    bound_overhead: float
    gap: float
    status: Status
    solver: str
    assumption: str
    forms: tuple[FormSummary, ...]
    ranges: tuple[str, ...]
    comparison: tuple[PolicyCost, ...]
    neighbours: tuple[Neighbour, ...]
    memory_at_peak: Mapping[str, int]
    held_outputs: HeldOutputs | None
    reserved: ReservedMemory | None
    offload: OffloadSummary | None
    copies_instead: CopiesInstead | None
    activations: tuple[Activations, ...]
    modules: tuple[Breakdown, ...]
    operators: tuple[Breakdown, ...]
    inexact: tuple[str, ...]
    pinned: tuple[PinnedOp, ...]
    verification: VerificationSummary | None
    schedule: str | None
    loss_is_the_callers: bool = field(metadata=NOT_IN_DOCUMENT)
    peak_moment: str = field(metadata=NOT_IN_DOCUMENT)
    curve: MemoryCurve = field(metadata=NOT_IN_DOCUMENT)

    @property
    def copies_to_disk(self) -> bool:
        return self.offload is not None and "disk" in self.offload.pools and self.offload.pools["disk"].bytes > 0


@dataclass(frozen=True)
class FormSummary:
    """One input shape and what its own schedule takes: "dtype[shape]" of each input by its place, bytes, seconds."""

    inputs: Mapping[str, str]
    peak_bytes: int
    baseline_peak_bytes: int
    seconds: float
    baseline_seconds: float
    status: Status

    @property
    def overhead(self) -> float:
        """Extra time as a fraction of the step without recomputation."""
        return self.seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0


@dataclass(frozen=True)
class ReservedMemory:
    """What the GPU's allocator reserves; the fields are those of ``gpu_allocator.Reserved``."""

    bytes: int
    expandable_bytes: int
    allocated_bytes: int
    setting: str | None
    fragmentation: float = field(metadata=NOT_IN_DOCUMENT)


@dataclass(frozen=True)
class PinnedOp:
    """An op that runs exactly once, its operator, and why."""

    name: str
    kind: str
    reason: str


def summarize(
    schedule: Schedule,
    *,
    comparison: Sequence[PolicyCost] = (),
    neighbours: Sequence[Neighbour] = (),
    verification: Verification | None = None,
    instead: CopiesInstead | None = None,
    path: str | None = None,
) -> WholeSummary:
    """What a report says about ``schedule``; ``path`` is the file that it is in, if any."""
    graph, origin = schedule.graph, schedule.origin
    return WholeSummary(
        model=origin.model,
        device=origin.device,
        costs=origin.costs,
        optimizer=origin.optimizer,
        training=origin.training,
        fingerprint=schedule.fingerprint,
        ops=len(graph.ops),
        steps=len(schedule.steps),
        budget_bytes=schedule.budget,
        budget_on=origin.budget_on,
        peak_bytes=schedule.peak_bytes,
        optimizer_step_peak_bytes=graph.update_peak if graph.update else None,
        baseline_peak_bytes=schedule.baseline_peak_bytes,
        seconds=schedule.seconds,
        baseline_seconds=schedule.baseline_seconds,
        bound_seconds=schedule.bound_seconds,
        scatter=origin.scatter,
        overhead=schedule.overhead,
        bound_overhead=schedule.bound_overhead,
        gap=schedule.overhead - schedule.bound_overhead,
        status=schedule.status,
        solver=schedule.solver,
        assumption=schedule.assumption,
        forms=tuple(map(_form, schedule.forms)),
        ranges=tuple(map(str, planned_ranges(schedule))),
        comparison=tuple(comparison),
        neighbours=tuple(neighbours),
        memory_at_peak=memory_at_peak(schedule),
        held_outputs=held_outputs(schedule),
        reserved=_reserved(schedule),
        offload=summarize_offload(schedule),
        copies_instead=instead,
        activations=tuple(saved_activations([(schedule, [""])])),
        modules=tuple(by_module(schedule)),
        operators=tuple(by_operator(schedule)),
        inexact=graph.inexact,
        pinned=tuple(PinnedOp(op.name, op.kind, op.pinned) for op in graph.ops if op.pinned is not None),
        verification=None if verification is None else summarize_verification(verification),
        schedule=path,
        loss_is_the_callers=origin.loss.startswith("the caller's"),
        peak_moment=_peak_moment(schedule),
        curve=memory_curve(schedule),
    )


def _form(form: Schedule) -> FormSummary:
    return FormSummary(
        inputs=form.origin.inputs,
        peak_bytes=form.peak_bytes,
        baseline_peak_bytes=form.baseline_peak_bytes,
        seconds=form.seconds,
        baseline_seconds=form.baseline_seconds,
        status=form.status,
    )


def _reserved(schedule: Schedule) -> ReservedMemory | None:
    reserved = reserved_by(schedule)
    if reserved is None:
        return None
    return ReservedMemory(
        bytes=reserved.bytes,
        expandable_bytes=reserved.expandable_bytes,
        allocated_bytes=reserved.allocated_bytes,
        setting=reserved.setting,
        fragmentation=reserved.fragmentation,
    )


def _peak_moment(schedule: Schedule) -> str:
    """ "backward of layers.3.mlp, addmm", or "optimizer's step"."""
    if peak_is_update(schedule.simulation):
        return "optimizer's step"
    if not schedule.steps:
        return "nothing runs"
    op = schedule.graph.actions[schedule.steps[schedule.simulation.peak_step]]
    if isinstance(op, Transfer):
        return op.name
    return f"{op.phase}{f' of {op.module}' if op.module else ''}, {short_operator(op.kind)}"
