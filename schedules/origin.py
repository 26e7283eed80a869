"""TODO: ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
