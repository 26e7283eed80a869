"""A schedule: a sequence of op executions, the graph it runs on, and where it came from.

Only the sequence is stored. Time, peak and every byte in between are what the simulator says of it, so a schedule cannot claim
a memory that it does not have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from schedules.graph import Graph
from schedules.simulate import Simulation, simulate

Status = Literal["optimal", "feasible"]


@dataclass(frozen=True)
class Origin:
    """Where a schedule came from, enough to recognise the model and inputs it was made for.

    Attributes:
        model: class of the model.
        parameters: "dtype[shape]" of each parameter and buffer, by its full name.
        inputs: "dtype[shape]" of each tensor input and the repr of each other one, by its place.
        loss: what the backward starts from.
        device: where the costs hold, "cpu" or a GPU's name.
        costs: how the seconds were found, "measured on ..." or "roofline of ...".
        optimizer: whose state is in the constants, or None.
        versions: versions of Python, torch and the planner that made it.
    """

    model: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    loss: str = ""
    device: str = ""
    costs: str = ""
    optimizer: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


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
    """

    graph: Graph
    steps: tuple[int, ...]
    budget: int
    solver: str
    status: Status
    bound_seconds: float
    assumption: str = ""
    origin: Origin = field(default_factory=Origin)

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
    def fingerprint(self) -> str:
        """SHA-256 of the graph that the schedule is for."""
        return self.graph.fingerprint

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON; the file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        from schedules.files import write_schedule

        write_schedule(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a schedule file.

        Raises:
            OSError: the file cannot be read.
            ScheduleFileError: it is truncated, of another format version, or says what its own steps do not bear out.
        """
        from schedules.files import read_schedule

        return read_schedule(path)
