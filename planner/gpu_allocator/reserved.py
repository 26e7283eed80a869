"""How much memory a schedule makes the GPU's allocator reserve, and which setting of the allocator lowers it."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.planner.gpu_allocator.caching_allocator import CachingAllocator
from remat_planner.planner.gpu_allocator.replay import expandable_segments_are_set, replay
from remat_planner.schedules import Schedule

EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""The allocator's setting, in the environment; torch 2.9 and later also call it PYTORCH_ALLOC_CONF."""

_TOLERATED = 0.03  # fragmentation, as a share of the reserved bytes, that is no reason to change a setting


@dataclass(frozen=True)
class Reserved:
    """Peak bytes of a step by the allocator's rules, for a fresh process and one stream.

    Attributes:
        bytes: reserved from the driver, with the allocator's default settings.
        expandable_bytes: reserved from the driver, with expandable segments.
        allocated_bytes: handed out, with the default settings.
    """

    bytes: int
    expandable_bytes: int
    allocated_bytes: int

    @property
    def fragmentation(self) -> float:
        """Share of the reserved bytes that is not handed out at the peak."""
        return 1 - self.allocated_bytes / self.bytes if self.bytes else 0.0

    @property
    def setting(self) -> str | None:
        """The allocator's setting that lowers the reserved bytes; None if it is set already or gains little."""
        helps = self.fragmentation > _TOLERATED and self.expandable_bytes < self.bytes
        return EXPANDABLE if helps and not expandable_segments_are_set() else None


def reserved_by(schedule: Schedule) -> Reserved | None:
    """The bytes that ``schedule`` reserves on its GPU; None for a plan for a CPU, whose allocator reserves nothing."""
    if schedule.origin.allocation_block == 1:
        return None
    default, expandable = (
        replay(schedule.graph, schedule.steps, CachingAllocator(expandable_segments=flag)) for flag in (False, True)
    )
    return Reserved(default.reserved, expandable.reserved, default.peak_allocated)
