"""A schedule: a sequence of op executions, the graph it runs on, and where it came from.

Only the sequence is stored. Time, peak and every byte in between are what the simulator says of it, so a schedule cannot claim
a memory that it does not have.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from remat_planner.schedules._documents import FORMAT, FORMAT_VERSION, ScheduleDocument, parsed, validated
from remat_planner.schedules.atomic_write import write_text_atomically
from remat_planner.schedules.errors import InvalidScheduleError, ScheduleFileError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.origin import Origin, Status
from remat_planner.schedules.simulate import Simulation, lifetimes, simulate


@dataclass(frozen=True, eq=False)
class Schedule:
    """What to compute when, within ``budget`` bytes.

    Attributes:
        graph: the training step.
        steps: op indices in the order of execution.
        budget: bytes that the step may take at its peak.
        solver: name of the solver that found it.
        status: "optimal" where it is proven that nothing faster exists (the planner counts 0.5 % of the step as nothing), else
            "feasible".
        bound_seconds: no schedule within the budget takes less, under ``assumption``.
        assumption: the class of schedules that the bound speaks of.
        origin: model, inputs, device and versions it was made for.
        companions: the schedules for other forms of input that were planned with it, within the same budget. All else here is
            of this one, whose form has the highest peak without recomputation.
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

    @property
    def forms(self) -> tuple[Schedule, ...]:
        """This schedule and its companions: one for each form of input."""
        return (self, *self.companions)

    @cached_property
    def simulation(self) -> Simulation:
        """The schedule as the simulator judges it.

        Raises:
            InvalidScheduleError: the steps cannot run.
        """
        return simulate(self.graph, self.steps)

    @cached_property
    def baseline(self) -> Simulation:
        """The step without recomputation, in the framework's own order."""
        return simulate(self.graph, range(len(self.graph.ops)))

    @property
    def peak_bytes(self) -> int:
        """Highest bytes of the step under this schedule, constants included."""
        return self.simulation.peak_bytes

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
        """The least possible ``overhead`` that the bound allows."""
        return self.bound_seconds / self.baseline_seconds - 1 if self.baseline_seconds else 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes from the end of the forward to the start of the backward that are not there all the time: what a forward whose
        backward is still to come holds, its outputs included.
        """
        at = next((k for k, op in enumerate(self.steps) if self.graph.ops[op].outside), None)
        if at is None:
            return 0
        pieces = lifetimes(self.graph, self.steps)
        across = (pieces.birth < at) & (pieces.death > at)
        results = [self.graph.values[value].storage for value in self.graph.results]
        lasting = (pieces.birth == at) & np.isin(pieces.storage, results)  # the loss, which is computed here
        return int(pieces.bytes[across | lasting].sum())

    def peak_in_flight(self, forwards: int) -> int:
        """Bytes that are not exceeded where ``forwards`` forwards run before the first of their backwards, as in a stage of a
        pipeline.

        Each forward has inputs and a loss of its own. What that loss keeps for its backward is not known apart, and is counted
        as all that it takes while it runs. From the second backward on there are gradients already, and each makes its own
        before they are added. Not in it are the buffers that a pipeline makes once, to receive into.
        """
        if forwards < 2:
            return self.peak_bytes
        each = self.held_bytes + self.graph.constants.get("inputs", 0) + self._loss_bytes
        return self.peak_bytes + (forwards - 2) * each + max(each, self.graph.lasting_bytes)

    @property
    def _loss_bytes(self) -> int:
        """What the caller's loss takes beside its result; 0 where gradients arrive from elsewhere."""
        taken = 0
        for op in self.graph.ops:
            if op.outside:
                passing = {self.graph.values[value].storage for value in op.writes if value not in self.graph.results}
                taken += op.workspace + sum(self.graph.storages[s].bytes for s in passing)
        return taken

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the graph that the schedule is for."""
        return self.graph.fingerprint

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_schedule(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a schedule file.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another format version, or says what its own steps do not bear out.
        """
        return read_schedule(path)


def write_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write ``schedule`` to ``path``, atomically: a reader finds the old file or the whole new one."""
    write_text_atomically(path, document_of(schedule).model_dump_json(exclude_defaults=True) + "\n")


def read_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule file and judge its steps again; see ``Schedule.load``."""
    content = parsed(path)
    if content["format"] != FORMAT:
        raise ScheduleFileError(f"{path}: a schedule by regions: read it with RegionSchedule.load")
    return schedule_of(path, validated(path, content, ScheduleDocument))


def document_of(schedule: Schedule) -> ScheduleDocument:
    return ScheduleDocument(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        fingerprint=schedule.fingerprint,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        seconds=schedule.seconds,
        solver=schedule.solver,
        status=schedule.status,
        bound_seconds=schedule.bound_seconds,
        assumption=schedule.assumption,
        origin=schedule.origin,
        steps=[schedule.graph.ops[i].name for i in schedule.steps],
        graph=schedule.graph,
        companions=[document_of(companion) for companion in schedule.companions],
    )


def schedule_of(path: str | os.PathLike[str], document: ScheduleDocument) -> Schedule:
    graph = document.graph
    if graph.fingerprint != document.fingerprint:
        raise ScheduleFileError(
            f"{path}: the graph does not match its own fingerprint; the file was edited or damaged: plan again"
        )
    unknown = [name for name in document.steps if name not in graph.by_name]
    if unknown:
        raise ScheduleFileError(f"{path}: the steps run {unknown[0]!r}, which the graph does not have: plan again")
    schedule = Schedule(
        graph=graph,
        steps=tuple(graph.by_name[name] for name in document.steps),
        budget=document.budget_bytes,
        solver=document.solver,
        status=document.status,
        bound_seconds=document.bound_seconds,
        assumption=document.assumption,
        origin=document.origin,
        companions=tuple(schedule_of(path, companion) for companion in document.companions),
    )
    try:
        peak = schedule.peak_bytes
    except InvalidScheduleError as error:
        raise ScheduleFileError(f"{path}: the steps cannot run ({error}): plan again") from error
    if peak != document.peak_bytes:
        raise ScheduleFileError(
            f"{path}: says that its peak is {document.peak_bytes:,} bytes, but its steps reach {peak:,}: plan again"
        )
    return schedule
