"""Where a schedule comes from: the model, inputs, device, training setup and versions it was planned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from remat_planner.schedules.ranges import SizeRange
from remat_planner.schedules.training_state import TrainingState

Status = Literal["optimal", "feasible"]
BudgetOn = Literal["allocated", "reserved"]
Variants = Literal["exact", "any"]


@dataclass(frozen=True)
class Origin:
    """What a schedule was planned for, in enough detail to recognise the same model, inputs and training setup.

    Attributes:
        model: class of the model.
        parameters: "dtype[shape]" of each parameter and buffer, by full name.
        inputs: "dtype[shape]" of each tensor input and the repr of each other input, by position or keyword.
        ranges: the sizes of inputs for which the schedule holds, within its budget; empty where these are ``inputs`` alone.
        modes: "training" or "evaluation" for each module whose mode differs from its parent's, by full name; empty when the
            whole model is in training mode.
        autocast: dtype of the ambient ``torch.autocast``, by device type.
        loss: what the backward starts from.
        gradient_layouts: of a region: output leaf -> shape and strides (elements) of the gradient that arrives there, where it
            is not laid out as the output.
        device: the device of the costs, "cpu" or the name of a GPU.
        costs: the source of the seconds, "measured on ..." or "roofline of ...".
        scatter: by how much the median of the measured seconds lies above those that count, which are a low quantile, as a
            fraction of the step: other work on the machine.
        optimizer: the optimizer whose state is in the constants, or None.
        training: how gradients, parameters and the optimizer are kept.
        allocation_block: granularity of the device's allocator in bytes: 512 on a GPU, 1 on a CPU.
        budget_on: what the budget limits: "allocated" or "reserved" bytes.
        variants: the forms of operators that the plan might take: "exact", with eager's bits, or "any".
        versions: versions of Python, torch and the planner.
    """

    model: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    ranges: tuple[SizeRange, ...] = ()
    modes: Mapping[str, str] = field(default_factory=dict)
    autocast: Mapping[str, str] = field(default_factory=dict)
    loss: str = ""
    gradient_layouts: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    device: str = ""
    costs: str = ""
    scatter: float = 0.0
    optimizer: str | None = None
    training: TrainingState = field(default_factory=TrainingState)
    allocation_block: int = 1
    budget_on: BudgetOn = "allocated"
    variants: Variants = "exact"
    versions: Mapping[str, str] = field(default_factory=dict)
