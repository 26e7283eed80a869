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

import numpy as np

from schedules.graph import Graph
from schedules.simulate import Simulation, lifetimes, simulate

Status = Literal["optimal", "feasible"]
BudgetOn = Literal["allocated", "reserved"]


@dataclass(frozen=True)
class Origin:
    """Where a schedule came from, enough to recognise the model and inputs it was made for.

    Attributes:
        model: class of the model.
        parameters: "dtype[shape]" of each parameter and buffer, by its full name.
        inputs: "dtype[shape]" of each tensor input and the repr of each other one, by its place.
        modes: "training" or "evaluation" of each module that is not in the mode of the one it lies in, by its full name; none
            for a model in training mode throughout.
        autocast: the dtype of the ambient ``torch.autocast``, by type of device.
        loss: what the backward starts from.
        device: where the costs hold, "cpu" or a GPU's name.
        costs: how the seconds were found, "measured on ..." or "roofline of ...".
        optimizer: whose state is in the constants, or None.
        gradient_dtype: in which gradients are kept, or None for that of the parameters.
        master_weights: whether float32 copies of the parameters are in the constants.
        shard: over how many ranks the training state is divided.
        zero_stage: what of it is: 1 the optimizer's state, 2 gradients too, 3 parameters too.
        optimizer_offload: whether the optimizer and its state are on the host.
        accumulate: whether gradients are added to those that are there before the step.
        gradient_buckets: how the buckets of DistributedDataParallel are counted: "copied", "views", or None for not at all.
        allocation_block: bytes that the device's allocator hands memory out in: 512 on a GPU, 1 on a CPU.
        budget_on: what the budget limits: "allocated" or "reserved" bytes.
        versions: versions of Python, torch and the planner that made it.
    """

    model: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    autocast: Mapping[str, str] = field(default_factory=dict)
    loss: str = ""
    device: str = ""
    costs: str = ""
    optimizer: str | None = None
    gradient_dtype: str | None = None
    master_weights: bool = False
    shard: int = 1
    zero_stage: int = 3
    optimizer_offload: bool = False
    accumulate: bool = False
    gradient_buckets: str | None = None
    allocation_block: int = 1
    budget_on: BudgetOn = "allocated"
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
