"""The summary of a schedule by regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from remat_planner.planner.reports.activations import Activations, saved_activations
from remat_planner.planner.reports.summary import NOT_IN_DOCUMENT, VerificationSummary, summarize_verification
from remat_planner.planner.reports.timeline import MemoryCurve, memory_curve
from remat_planner.schedules import RegionSchedule, Schedule, retained_bytes

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification

_Form = tuple[str, Schedule, int]
"""Name, schedule and calls of one form of a region."""


@dataclass(frozen=True)
class RegionSummary:
    """What a report says about a schedule by regions; fields that ``Summary`` has are described there.

    Attributes:
        constants: bytes that are resident throughout, by kind.
        region_seconds: of the regions' ops in one step, recomputation included.
        baseline_region_seconds: the same without recomputation.
        region_overhead: extra time as a fraction of ``baseline_region_seconds``.
        regions: the regions, those with one schedule together.
        activations: what the regions' backwards read of their forwards, the largest first.
        pool_bytes: what the copies of all calls take in each pool.
        curves: memory over one call of each of ``regions``.
    """

    schedule_class: ClassVar[str] = "RegionSchedule"

    model: str
    device: str
    costs: str
    optimizer: str | None
    budget_bytes: int
    peak_bytes: int
    baseline_peak_bytes: int
    constants: Mapping[str, int]
    region_seconds: float
    baseline_region_seconds: float
    region_overhead: float
    regions: tuple[EqualRegions, ...]
    activations: tuple[Activations, ...]
    pool_bytes: Mapping[str, int]
    verification: VerificationSummary | None
    schedule: str | None
    loss_is_the_callers: bool = field(default=False, metadata=NOT_IN_DOCUMENT)  # only the regions run our code
    curves: tuple[MemoryCurve, ...] = field(default=(), metadata=NOT_IN_DOCUMENT)

    @property
    def copies_to_disk(self) -> bool:
        """Whether the schedule needs a folder."""
        return "disk" in self.pool_bytes


@dataclass(frozen=True)
class EqualRegions:
    """Regions with one graph and one schedule; one that is called with several forms of input is in several of them.

    Attributes:
        regions: paths of their modules.
        calls: calls of all of them in a step.
        held_bytes: what each call retains from its forward to its backward, outputs excluded.
        baseline_held_bytes: the same without recomputation.
        copied_bytes: what the copies of each call take in all pools.
        extra_seconds: what recomputation and waiting for copies add to each call.
    """

    regions: tuple[str, ...]
    calls: int
    held_bytes: int
    baseline_held_bytes: int
    copied_bytes: int
    extra_seconds: float


def summarize_regions(
    schedule: RegionSchedule, *, verification: Verification | None = None, path: str | None = None
) -> RegionSummary:
    """What a report says about ``schedule``; ``path`` is the file that it is in, if any."""
    groups = _equal_regions(schedule)
    first = [forms[0][1] for forms in groups]
    return RegionSummary(
        model=schedule.origin.model,
        device=schedule.origin.device,
        costs=schedule.origin.costs,
        optimizer=schedule.origin.optimizer,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        baseline_peak_bytes=schedule.baseline_peak_bytes,
        constants=schedule.constants,
        region_seconds=schedule.seconds,
        baseline_region_seconds=schedule.baseline_seconds,
        region_overhead=schedule.overhead,
        regions=tuple(map(_group, groups)),
        activations=tuple(saved_activations(zip(first, map(_called, groups), strict=True))),
        pool_bytes=schedule.pool_peak_bytes,
        verification=None if verification is None else summarize_verification(verification),
        schedule=path,
        curves=tuple(map(memory_curve, first)),
    )


def _equal_regions(schedule: RegionSchedule) -> list[list[_Form]]:
    """The forms of all regions, those with one graph and one schedule together."""
    alike: dict[tuple[str, tuple[int, ...]], list[_Form]] = defaultdict(list)
    for name, form, calls in schedule.forms:
        alike[form.fingerprint, form.steps].append((name, form, calls))
    return list(alike.values())


def _group(forms: Sequence[_Form]) -> EqualRegions:
    _, region, _ = forms[0]
    return EqualRegions(
        regions=tuple(name for name, *_ in forms),
        calls=sum(calls for *_, calls in forms),
        held_bytes=retained_bytes(region.graph, region.steps),
        baseline_held_bytes=retained_bytes(region.graph, range(len(region.graph.ops))),
        copied_bytes=sum(region.pool_peak_bytes.values()),
        extra_seconds=region.seconds - region.baseline_seconds,
    )


def _called(forms: Sequence[_Form]) -> list[str]:
    """The path of each region, once for every call in a step."""
    return [name for name, _, calls in forms for _ in range(calls)]
