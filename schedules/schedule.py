"""A schedule: a sequence of op executions, the graph it runs on, and where it came from.

Only the sequence is stored. Seconds and bytes always come from the simulator, so a schedule cannot claim a peak that its steps
do not have; a file that does is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from remat_planner.schedules.atomic_write import write_text_atomically
from remat_planner.schedules.errors import InvalidScheduleError, ScheduleFileError
from remat_planner.schedules.file_format import (
    FORMAT,
    FORMAT_VERSION,
    TRANSFERS_FORMAT_VERSION,
    ScheduleDocument,
    parsed,
    validated,
)
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.in_flight import held_bytes, peak_in_flight
from remat_planner.schedules.notebook import facts_html, with_baseline
from remat_planner.schedules.origin import Origin, Status
from remat_planner.schedules.ranges import SizeRange
from remat_planner.schedules.simulate import Simulation, simulate
from remat_planner.schedules.transfers import PoolName


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """Which op runs when, planned for ``budget`` bytes.

    Attributes:
        graph: the training step.
        steps: indices into ``graph.actions`` (ops, and transfers after them) in the order of issue.
        budget: bytes that the step may take on the device at its peak; the graph's pools have budgets of their own.
        solver: name of the solver that found the schedule.
        status: "optimal" if a bound proves that none is faster (the planner ignores 0.5 % of the step), else "feasible".
        bound_seconds: no schedule within the budget takes less, under ``assumption``.
        assumption: the class of schedules that the bound covers.
        origin: the model, inputs, device and versions it was planned for.
        companions: schedules for other input shapes, planned together within the same budget. All other attributes describe
            this schedule, for the shape with the highest peak without recomputation.
    """

    graph: Graph
    steps: tuple[int, ...]
    budget: int
    solver: str
    status: Status
    bound_seconds: float
    assumption: str = ""
    origin: Origin = field(default_factory=Origin)
    companions: tuple[Schedule, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Schedule of {self.origin.model or 'a graph'}: {len(self.graph.ops):,} ops, {len(self.steps):,} steps, "
            f"budget {self.budget:,} bytes, {self.status} by {self.solver}>"
        )

    def _repr_html_(self) -> str:
        within = f" ({self.assumption})" if self.assumption else ""
        facts = {
            "Budget": f"{self.budget:,} bytes",
            "Peak": with_baseline(self.peak_bytes, self.baseline_peak_bytes),
            "Time": f"+{self.overhead:.2%} a step; none takes less than +{self.bound_overhead:.2%}{within}",
            "Found": f"{self.status} by {self.solver}",
            "Steps": f"{len(self.steps):,} executions of {len(self.graph.ops):,} ops",
        }
        return facts_html(f"Schedule of {self.origin.model or 'a graph'}", facts)

    @property
    def forms(self) -> tuple[Schedule, ...]:
        """This schedule and its companions: one for each input shape."""
        return (self, *self.companions)

    @cached_property
    def simulation(self) -> Simulation:
        """Seconds and bytes of the schedule.

        Raises:
            InvalidScheduleError: the steps cannot run.
        """
        return simulate(self.graph, self.steps)

    @cached_property
    def baseline(self) -> Simulation:
        """The step without recomputation, in the framework's own order."""
        return simulate(self.graph.eager, range(len(self.graph.ops)))

    @property
    def peak_bytes(self) -> int:
        """Highest bytes of the step under this schedule, constants included."""
        return self.simulation.peak_bytes

    @property
    def pool_peak_bytes(self) -> dict[PoolName, int]:
        """Bytes that the copies take in each pool that has any."""
        return self.simulation.pool_peaks

    @property
    def baseline_peak_bytes(self) -> int:
        """Highest bytes of the step without recomputation, constants included."""
        return self.baseline.peak_bytes

    @property
    def seconds(self) -> float:
        """Seconds of the step under this schedule."""
        return self.simulation.seconds

    @property
    def baseline_seconds(self) -> float:
        """Seconds of the step without recomputation."""
        return self.baseline.seconds

    @property
    def overhead(self) -> float:
        """Extra time as a fraction of the step without recomputation; 0 where the step takes no time at all."""
        return self.seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0

    @property
    def bound_overhead(self) -> float:
        """The least ``overhead`` that the bound allows."""
        return self.bound_seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes that a forward holds until its backward starts, its outputs included and constants excluded."""
        return held_bytes(self.graph, self.steps)

    def peak_in_flight(self, forwards: int) -> int:
        """An upper bound on the peak bytes when ``forwards`` forwards run before the first backward, as in a pipeline stage."""
        return peak_in_flight(self.graph, self.steps, forwards)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the graph that the schedule is for."""
        return self.graph.fingerprint

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text_atomically(path, document_of(self).model_dump_json(exclude_defaults=True) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a schedule file and simulate its steps again.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another format version, or claims what its own steps do not bear out.
        """
        content = parsed(path)
        if content["format"] != FORMAT:
            raise ScheduleFileError(f"{path}: a schedule by regions: read it with RegionSchedule.load")
        return schedule_from_document(path, validated(path, content, ScheduleDocument))


def planned_ranges(schedule: Schedule) -> tuple[SizeRange, ...]:
    """The ranges of sizes for which ``schedule`` and its companions hold together; none where they are for some sizes alone."""
    of_forms = [form.origin.ranges for form in schedule.forms if form.origin.ranges]
    return tuple(
        replace(of[0], least=min(one.least for one in of), largest=max(one.largest for one in of))
        for of in zip(*of_forms, strict=True)
    )


def format_version(schedules: Iterable[Schedule]) -> int:
    """The version of a file that has these schedules."""
    transfers = any(form.graph.pools for schedule in schedules for form in schedule.forms)
    return TRANSFERS_FORMAT_VERSION if transfers else FORMAT_VERSION


def document_of(schedule: Schedule) -> ScheduleDocument:
    """The document that ``Schedule.save`` writes."""
    return ScheduleDocument(
        format=FORMAT,
        format_version=format_version([schedule]),
        fingerprint=schedule.fingerprint,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        seconds=schedule.seconds,
        solver=schedule.solver,
        status=schedule.status,
        bound_seconds=schedule.bound_seconds,
        assumption=schedule.assumption,
        origin=schedule.origin,
        steps=[schedule.graph.actions[i].name for i in schedule.steps],
        graph=schedule.graph,
        pool_peak_bytes=schedule.pool_peak_bytes,
        companions=[document_of(companion) for companion in schedule.companions],
    )


def schedule_from_document(path: str | os.PathLike[str], document: ScheduleDocument) -> Schedule:
    """The schedule in ``document``, checked against its fingerprint and the simulator; ``path`` is for error messages.

    Raises:
        ScheduleFileError: the document contradicts itself.
    """
    graph = document.graph
    if graph.fingerprint != document.fingerprint:
        raise ScheduleFileError(
            f"{path}: the graph does not match its own fingerprint; the file was edited or damaged: plan again"
        )
    if graph.pools and document.format_version < TRANSFERS_FORMAT_VERSION:
        raise ScheduleFileError(
            f"{path}: pools for copies in a file of format version {document.format_version}, which has none; the file was "
            "edited or damaged: plan again"
        )
    unknown = [name for name in document.steps if name not in graph.by_name]
    if unknown:
        raise ScheduleFileError(f"{path}: the steps run {unknown[0]!r}, which its graph does not have: plan again")
    schedule = Schedule(
        graph=graph,
        steps=tuple(graph.by_name[name] for name in document.steps),
        budget=document.budget_bytes,
        solver=document.solver,
        status=document.status,
        bound_seconds=document.bound_seconds,
        assumption=document.assumption,
        origin=document.origin,
        companions=tuple(schedule_from_document(path, companion) for companion in document.companions),
    )
    try:
        peak, numbers = schedule.peak_bytes, (schedule.seconds, schedule.baseline_seconds, schedule.bound_seconds)
    except InvalidScheduleError as error:
        raise ScheduleFileError(f"{path}: the steps cannot run ({error}): plan again") from error
    except OverflowError as error:
        raise ScheduleFileError(f"{path}: bytes or seconds beyond any machine ({error}): plan again") from error
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ScheduleFileError(f"{path}: seconds that are no numbers; the file was edited or damaged: plan again")
    if peak != document.peak_bytes:
        raise ScheduleFileError(
            f"{path}: claims a peak of {document.peak_bytes:,} bytes, but its steps reach {peak:,}: plan again"
        )
    if schedule.pool_peak_bytes != document.pool_peak_bytes:
        claims = document.pool_peak_bytes or "no copies"
        raise ScheduleFileError(
            f"{path}: claims {claims} in the pools, but its steps copy {schedule.pool_peak_bytes or 'nothing'}: plan again"
        )
    if peak > document.budget_bytes:
        raise ScheduleFileError(
            f"{path}: its steps reach {peak:,} bytes, above its own budget of {document.budget_bytes:,}: plan again"
        )
    return schedule
