"""What depends on the device of a plan: the budget "auto", budgets on reserved bytes, and optimizers on the host."""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from remat_planner.planner.errors import BudgetError
from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.planning.budget import AUTO, Budget, parse_budget
from remat_planner.schedules import BudgetOn, TrainingStateError
from remat_planner.tracer.costs import DEVICES, is_for_gpu

CONTEXT_BYTES = 10**9
"""Bytes that the driver's context and libraries take outside of PyTorch's allocator."""

FRAGMENTATION = 0.05
"""Share of the remaining memory that the caching allocator may reserve without handing it out."""


def budget_on_device(budget: int | str, model: nn.Module, costs: str) -> Budget:
    """Parse a budget; "auto" is the memory of the plan's device less a reserve, which the budget's description states.

    Args:
        budget: as ``parse_budget`` takes it, or "auto".
        model: its parameters are on the device, unless ``costs`` names one.
        costs: "measure", the name of a GPU, or a profile file.

    Raises:
        BudgetError: it is not a number of bytes, or "auto" for a plan that is not for a GPU of known size.
    """
    if budget != AUTO:
        return parse_budget(budget)
    name, memory = _device_memory(model, costs)
    usable = int((memory - CONTEXT_BYTES) * (1 - FRAGMENTATION))
    reserve = f"{format_bytes(CONTEXT_BYTES)} for its context and {FRAGMENTATION:.0%} for fragmentation"
    return Budget(bytes=usable, origin=f"the {format_bytes(memory)} of {name} less {reserve}")


def check_budget_on(budget_on: str, model: nn.Module, costs: str) -> None:
    """Refuse a budget on bytes that the plan's device does not count.

    Raises:
        BudgetError: neither "allocated" nor "reserved"; or "reserved" for a device without a caching allocator.
        CostError: ``costs`` cannot be read.
    """
    if budget_on not in get_args(BudgetOn):
        raise BudgetError(f"a budget can be on {' or '.join(get_args(BudgetOn))} bytes, not on {budget_on!r}")
    if budget_on == "reserved" and device_type(model, costs) != "cuda" and not is_for_gpu(costs):
        raise BudgetError(
            "a budget on reserved bytes is for a GPU's caching allocator, and this plan is for a CPU, which has none: name a "
            "GPU (costs='h100'), or leave the budget on allocated bytes"
        )


def check_offload(model: nn.Module, costs: str) -> None:
    """Refuse an optimizer on the host if the host is the device that trains.

    Raises:
        TrainingStateError: the plan is for a CPU.
        CostError: ``costs`` cannot be read.
    """
    if device_type(model, costs) == "cpu" and not is_for_gpu(costs):
        raise TrainingStateError(
            "an optimizer on the host shares the same memory with the rest of a plan for a CPU: name a GPU (--device, or "
            "costs='h100'), or leave optimizer_offload out"
        )


def device_type(model: nn.Module, costs: str) -> str:
    """The type of the plan's device: "cuda" if ``costs`` names a GPU, else that of the parameters."""
    if costs.lower() in DEVICES:
        return "cuda"
    return next((p.device.type for p in model.parameters()), "cpu")


def _device_memory(model: nn.Module, costs: str) -> tuple[str, int]:
    if costs.lower() in DEVICES:
        return costs, DEVICES[costs.lower()].memory
    devices = {p.device for p in model.parameters()}
    if len(devices) != 1 or (device := devices.pop()).type != "cuda":
        raise BudgetError(
            "a budget of 'auto' is the memory of one GPU, and this model is not on one: name it (costs='h100'), "
            "or give the budget in bytes"
        )
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.total_memory
