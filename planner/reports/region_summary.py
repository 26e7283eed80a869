"""The summary of a schedule by regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from remat_planner.planner.reports.activations import Activations, saved_activations
from remat_planner.planner.reports.summary import NOT_IN_DOCUMENT, VerificationSummary, summarize_verification
from remat_planner.planner.reports.timeline import MemoryCurve, memory_curve
from remat_planner.schedules import Graph, RegionSchedule, lifetimes

if TYPE_CHECKING:
    from remat_planner.planner.measurement import Verification


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
    verification: VerificationSummary | None
    schedule: str | None
    loss_is_the_callers: bool = field(default=False, metadata=NOT_IN_DOCUMENT)  # only the regions run our code
    curves: tuple[MemoryCurve, ...] = field(default=(), metadata=NOT_IN_DOCUMENT)


@dataclass(frozen=True)
class EqualRegions:
    """Regions with one graph and one schedule.

    Attributes:
        regions: paths of their modules.
        calls: calls of all of them in a step.
        held_bytes: what each call retains from its forward to its backward, outputs excluded.
        baseline_held_bytes: the same without recomputation.
        extra_seconds: what recomputation adds to each call.
    """

    regions: tuple[str, ...]
    calls: int
    held_bytes: int
    baseline_held_bytes: int
    extra_seconds: float


def summarize_regions(
    schedule: RegionSchedule, *, verification: Verification | None = None, path: str | None = None
) -> RegionSummary:
    """What a report says about ``schedule``; ``path`` is the file that it is in, if any."""
    groups = _equal_regions(schedule)
    first = [schedule.regions[group.regions[0]] for group in groups]
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
        regions=tuple(groups),
        activations=tuple(saved_activations(zip(first, map(partial(_called, schedule), groups), strict=True))),
        verification=None if verification is None else summarize_verification(verification),
        schedule=path,
        curves=tuple(map(memory_curve, first)),
    )


def _called(schedule: RegionSchedule, group: EqualRegions) -> list[str]:
    """The path of each region, once for every call in a step."""
    return [name for name in group.regions for _ in range(schedule.calls[name])]


def _equal_regions(schedule: RegionSchedule) -> list[EqualRegions]:
    names_of: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, region in schedule.regions.items():
        names_of[region.fingerprint, region.steps].append(name)
    groups = []
    for names in names_of.values():
        region = schedule.regions[names[0]]
        groups.append(
            EqualRegions(
                regions=tuple(names),
                calls=sum(schedule.calls[name] for name in names),
                held_bytes=held_bytes(region.graph, region.steps),
                baseline_held_bytes=held_bytes(region.graph, range(len(region.graph.ops))),
                extra_seconds=region.seconds - region.baseline_seconds,
            )
        )
    return groups


def held_bytes(graph: Graph, steps: Sequence[int]) -> int:
    """Bytes that a region retains from its forward to its backward.

    Outputs belong to the ops after the region, so they count only where the region's own backward reads them.
    """
    boundary = next(step for step, op in enumerate(steps) if graph.actions[op].outside)
    pieces = lifetimes(replace(graph, results=()), steps)
    return int(pieces.bytes[(pieces.birth < boundary) & (pieces.death > boundary)].sum())
