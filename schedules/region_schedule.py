"""A schedule by regions: some blocks of a model have a schedule each; the code between them runs eagerly."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from remat_planner.schedules.atomic_write import write_text_atomically
from remat_planner.schedules.errors import ScheduleFileError
from remat_planner.schedules.file_format import REGIONS_FORMAT, RegionScheduleDocument, parsed, validated
from remat_planner.schedules.in_flight import retained_bytes
from remat_planner.schedules.notebook import facts_html, with_baseline
from remat_planner.schedules.origin import Origin
from remat_planner.schedules.schedule import Schedule, document_of, format_version, schedule_from_document


@dataclass(frozen=True, eq=False, repr=False)
class RegionSchedule:
    """Schedules of blocks, chosen together so that the whole step stays within ``budget`` bytes.

    No graph covers the code between the regions, so the peak is not simulated: it was measured by running the step.

    Attributes:
        regions: the schedule of each block, by the full name of its module, with a companion for each other form of input.
        calls: how many times the step calls each block, 1 for one that random draws leave out of some steps.
        form_calls: of the blocks that are called with several forms of input, the calls with each, in the order of ``forms``.
        budget: bytes that the whole step may take at its peak.
        peak_bytes: measured peak under these schedules, constants and the optimizer's step included.
        baseline_peak_bytes: predicted peak where no region recomputes anything.
        constants: bytes resident all the time, by kind ("parameters", "buffers", "inputs", "optimizer").
        update: bytes of the optimizer's step beyond the constants, the gradients and the outputs.
        origin: the model, inputs, device and versions it was planned for.
    """

    regions: Mapping[str, Schedule]
    calls: Mapping[str, int]
    budget: int
    peak_bytes: int
    baseline_peak_bytes: int
    constants: Mapping[str, int] = field(default_factory=dict)
    update: int = 0
    origin: Origin = field(default_factory=Origin)
    form_calls: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        model = self.origin.model or "a model"
        return (
            f"<RegionSchedule of {len(self.regions):,} regions of {model}: budget {self.budget:,} bytes, "
            f"measured peak {self.peak_bytes:,}>"
        )

    def _repr_html_(self) -> str:
        facts = {
            "Budget": f"{self.budget:,} bytes",
            "Peak": f"{with_baseline(self.peak_bytes, self.baseline_peak_bytes)}; measured",
            "Time": f"+{self.overhead:.2%} in the regions",
            "Regions": f"{len(self.regions):,}",
        }
        return facts_html(f"Schedule by regions of {self.origin.model or 'a model'}", facts)

    @property
    def forms(self) -> Iterator[tuple[str, Schedule, int]]:
        """For each form of input of each region its name, the schedule, and the number of calls in a step."""
        for name, region in self.regions.items():
            calls = self.form_calls.get(name, (self.calls[name],))
            yield from ((name, form, number) for form, number in zip(region.forms, calls, strict=True))

    @property
    def constant_bytes(self) -> int:
        """Bytes resident during the whole step."""
        return sum(self.constants.values())

    @property
    def seconds(self) -> float:
        """Seconds of the regions' ops in one step, recomputation included; code between the regions does not count."""
        return sum(calls * form.seconds for _, form, calls in self.forms)

    @property
    def baseline_seconds(self) -> float:
        """Seconds of the regions' ops in one step without recomputation."""
        return sum(calls * form.baseline_seconds for _, form, calls in self.forms)

    @property
    def overhead(self) -> float:
        """Extra time as a fraction of the regions' ``baseline_seconds``; as a fraction of the whole step it is less."""
        return self.seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0

    @property
    def pool_peak_bytes(self) -> dict[str, int]:
        """Bytes that the copies of all calls of the regions take in each pool that has any."""
        taken: Counter[str] = Counter()
        for _, form, calls in self.forms:
            taken.update({name: calls * size for name, size in form.pool_peak_bytes.items()})
        return dict(taken)

    def peak_in_flight(self, forwards: int) -> int:
        """A lower bound on the peak bytes when ``forwards`` forwards run before the first backward.

        What the code between the regions retains of the others is unknown, so it does not count.
        """
        each = sum(calls * retained_bytes(form.graph, form.steps) for _, form, calls in self.forms)
        return self.peak_bytes + (forwards - 1) * each

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text_atomically(path, _document_of(self).model_dump_json(exclude_defaults=True) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RegionSchedule:
        """Read a schedule file and simulate the steps of each region again.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another kind or format version, or claims what its steps do not bear out.
        """
        content = parsed(path)
        if content["format"] != REGIONS_FORMAT:
            raise ScheduleFileError(f"{path}: the schedule of a whole model, not one by regions: read it with Schedule.load")
        return regions_from_content(path, content)


def _document_of(schedule: RegionSchedule) -> RegionScheduleDocument:
    numbers: dict[tuple[Any, ...], int] = {}
    distinct: list[Schedule] = []
    regions: dict[str, int] = {}
    for name, region in schedule.regions.items():
        key = tuple(
            (form.fingerprint, form.graph.pools, form.graph.copied, form.steps, *sorted(form.origin.gradient_layouts.items()))
            for form in region.forms
        )
        if key not in numbers:
            numbers[key] = len(distinct)
            distinct.append(region)
        regions[name] = numbers[key]
    return RegionScheduleDocument(
        format=REGIONS_FORMAT,
        format_version=format_version(distinct),
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        baseline_peak_bytes=schedule.baseline_peak_bytes,
        constants=dict(schedule.constants),
        update_bytes=schedule.update,
        origin=schedule.origin,
        calls=dict(schedule.calls),
        form_calls=dict(schedule.form_calls),
        regions=regions,
        schedules=[document_of(region) for region in distinct],
    )


def regions_from_content(path: str | os.PathLike[str], content: dict[str, Any]) -> RegionSchedule:
    """The schedule in the JSON ``content`` of a file; ``path`` is for error messages.

    Raises:
        ScheduleFileError: the content is damaged or contradicts itself.
    """
    document = validated(path, content, RegionScheduleDocument)
    schedules = [schedule_from_document(path, schedule) for schedule in document.schedules]
    missing = any(not 0 <= number < len(schedules) for number in document.regions.values())
    forms = {name: len(schedules[number].forms) for name, number in document.regions.items() if not missing}
    missing |= forms != {name: len(document.form_calls.get(name, (1,))) for name in document.regions}
    if missing or document.regions.keys() != document.calls.keys():
        raise ScheduleFileError(f"{path}: regions without a schedule or a number of calls; the file is damaged: plan again")
    if document.peak_bytes > document.budget_bytes:
        raise ScheduleFileError(
            f"{path}: its step took {document.peak_bytes:,} bytes, above its budget of {document.budget_bytes:,}: plan again"
        )
    return RegionSchedule(
        regions={name: schedules[number] for name, number in document.regions.items()},
        calls=document.calls,
        budget=document.budget_bytes,
        peak_bytes=document.peak_bytes,
        baseline_peak_bytes=document.baseline_peak_bytes,
        constants=document.constants,
        update=document.update_bytes,
        origin=document.origin,
        form_calls=document.form_calls,
    )
