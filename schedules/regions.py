"""A schedule by regions: some blocks of a model have a schedule each, and what lies between them runs as it does anyway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from schedules.schedule import Origin, Schedule


@dataclass(frozen=True, eq=False)
class RegionSchedule:
    """Schedules of blocks, chosen together so that the whole step stays within ``budget`` bytes.

    What runs between the regions is in no graph, so the peak is not simulated: it was measured, by running the step.

    Attributes:
        regions: the schedule of each block, by the full name of its module.
        calls: how many times the step calls each of them.
        budget: bytes that the whole step may take at its peak.
        peak_bytes: what it was measured to take under these schedules, constants and the optimizer's step included.
        baseline_peak_bytes: what is predicted where no region recomputes anything.
        constants: bytes that are there all the time, by what they are ("parameters", "buffers", "inputs", "optimizer").
        update: bytes that the optimizer's step takes beyond those, the gradients and the outputs.
        origin: model, inputs, device and versions it was made for.
    """

    regions: Mapping[str, Schedule]
    calls: Mapping[str, int]
    budget: int
    peak_bytes: int
    baseline_peak_bytes: int
    constants: Mapping[str, int] = field(default_factory=dict)
    update: int = 0
    origin: Origin = field(default_factory=Origin)

    @property
    def constant_bytes(self) -> int:
        """Bytes that are there during the whole step."""
        return sum(self.constants.values())

    @property
    def seconds(self) -> float:
        """Seconds of the regions' ops in one step, recomputation included; what runs between them is not in it."""
        return sum(self.calls[name] * region.seconds for name, region in self.regions.items())

    @property
    def baseline_seconds(self) -> float:
        """Seconds of the regions' ops in one step without recomputation."""
        return sum(self.calls[name] * region.baseline_seconds for name, region in self.regions.items())

    @property
    def overhead(self) -> float:
        """Extra time as a fraction of the regions' own; of the whole step it is less."""
        return self.seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        from schedules.files import write_region_schedule

        write_region_schedule(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RegionSchedule:
        """Read a schedule file.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another kind or format version, or says what its steps do not bear out.
        """
        from schedules.files import read_region_schedule

        return read_region_schedule(path)
