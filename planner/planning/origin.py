"""The origin of a new schedule: the model, call, device, settings and versions that it is planned for."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.signatures import mode_signature
from remat_planner.schedules import Origin


def new_origin(
    model: nn.Module,
    parameters: Mapping[str, str],
    inputs: Mapping[str, str],
    autocast: Mapping[str, str],
    loss: str,
    settings: Settings,
    block: int,
    *,
    scatter: float = 0.0,
) -> Origin:
    """The origin of a schedule that is planned now.

    Args:
        model: the model, in the mode of the step.
        parameters: its ``state_signature``.
        inputs: the ``input_signature`` of the call.
        autocast: the ambient ``torch.autocast``, the dtype by type of device.
        loss: what the backward starts from, in words.
        settings: what the schedule is planned with.
        block: granularity of the device's allocator in bytes.
        scatter: of the measured seconds, as in ``Origin``.
    """
    return Origin(
        model=type(model).__qualname__,
        parameters=parameters,
        inputs=inputs,
        modes=mode_signature(model),
        autocast=dict(autocast),
        loss=loss,
        device=_device_names(model),
        costs=settings.costs,
        scatter=scatter,
        optimizer=settings.optimizer,
        training=settings.training,
        allocation_block=block,
        budget_on=settings.budget_on,
        variants=settings.variants,
        versions={"python": platform.python_version(), "torch": str(torch.__version__), "planner": _planner_version()},
    )


def _device_names(model: nn.Module) -> str:
    devices = {p.device for p in model.parameters()} or {torch.device("cpu")}
    return ", ".join(sorted(torch.cuda.get_device_name(d) if d.type == "cuda" else str(d) for d in devices))


def _planner_version() -> str:
    try:
        return version("remat-planner")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"
