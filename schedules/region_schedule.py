"""A schedule by regions: some blocks of a model have a schedule each, and what lies between them runs as it does anyway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remat_planner.schedules._documents import FORMAT_VERSION, REGIONS_FORMAT, RegionScheduleDocument, parsed, validated
from remat_planner.schedules.atomic_write import write_text_atomically
from remat_planner.schedules.errors import ScheduleFileError
from remat_planner.schedules.origin import Origin
from remat_planner.schedules.schedule import Schedule, document_of, schedule_of


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
        write_region_schedule(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RegionSchedule:
        """Read a schedule file.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another kind or format version, or says what its steps do not bear out.
        """
        return read_region_schedule(path)


def write_region_schedule(schedule: RegionSchedule, path: str | os.PathLike[str]) -> None:
    """Write ``schedule`` to ``path``, atomically; a schedule that several regions have is written once."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    distinct: list[Schedule] = []
    regions: dict[str, int] = {}
    for name, region in schedule.regions.items():
        key = (region.fingerprint, region.steps)
        if key not in numbers:
            numbers[key] = len(distinct)
            distinct.append(region)
        regions[name] = numbers[key]
    document = RegionScheduleDocument(
        format=REGIONS_FORMAT,
        format_version=FORMAT_VERSION,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        baseline_peak_bytes=schedule.baseline_peak_bytes,
        constants=dict(schedule.constants),
        update_bytes=schedule.update,
        origin=schedule.origin,
        calls=dict(schedule.calls),
        regions=regions,
        schedules=[document_of(region) for region in distinct],
    )
    write_text_atomically(path, document.model_dump_json(exclude_defaults=True) + "\n")


def read_region_schedule(path: str | os.PathLike[str]) -> RegionSchedule:
    """Read a file of a schedule by regions; see ``RegionSchedule.load``."""
    content = parsed(path)
    if content["format"] != REGIONS_FORMAT:
        raise ScheduleFileError(f"{path}: the schedule of a whole model, not one by regions: read it with Schedule.load")
    return region_schedule_of(path, content)


def region_schedule_of(path: str | os.PathLike[str], content: dict[str, Any]) -> RegionSchedule:
    document = validated(path, content, RegionScheduleDocument)
    schedules = [schedule_of(path, schedule) for schedule in document.schedules]
    wrong = [name for name, number in document.regions.items() if not 0 <= number < len(schedules)]
    if wrong or document.regions.keys() != document.calls.keys():
        raise ScheduleFileError(f"{path}: regions without a schedule or a number of calls; the file is damaged: plan again")
    return RegionSchedule(
        regions={name: schedules[number] for name, number in document.regions.items()},
        calls=document.calls,
        budget=document.budget_bytes,
        peak_bytes=document.peak_bytes,
        baseline_peak_bytes=document.baseline_peak_bytes,
        constants=document.constants,
        update=document.update_bytes,
        origin=document.origin,
    )
