"""TODO: ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import Loss
from remat_planner.planner.planning import merged_names, repeated_blocks
from remat_planner.planner.regions.capture import Discovery, Region, discover
from remat_planner.planner.regions.select import AUTO, find_regions
from remat_planner.planner.regions.shared_casts import why_its_casts_are_shared
from remat_planner.tracer import CaptureError
from remat_planner.tracer.errors import (
    DataDependentError,
    ModelNotSupportedError,
    StateReassignedError,
    UnsupportedOperatorError,
)
from remat_planner.tracer.torch_private import fake_mode_of

# What keeps a whole model from being captured and may lie between its blocks.
_BY_REGIONS = (DataDependentError, StateReassignedError, UnsupportedOperatorError, ModelNotSupportedError)


def called_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    regions: str | type[nn.Module],
    loss: Loss | None = None,
) -> tuple[Region, ...]:
    """The regions that ``regions`` means, captured; of "auto" those that can be and are called.

    Raises:
        RegionError: nothing is meant, a region is not called in training, or shares the casts of its parameters.
        tracer.CaptureError: a region cannot be captured.
    """
    found = discover(model, args, kwargs, find_regions(model, regions), loss)
    why_shared = {region.name: why_its_casts_are_shared(model, region, found.read_outside) for region in found.regions}
    shared = {name: why for name, why in why_shared.items() if why is not None}
    if regions != AUTO:
        _refuse_uncaptured(found)
        for name, why in shared.items():
            raise RegionError(f"region {name!r}: {why}", names=(name,))
    apart = tuple(region for region in found.regions if region.name not in shared)
    if not apart:
        refused = {**found.refused, **shared}
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items()) or "the step calls none of them"
        raise RegionError(f"none of the repeated blocks can be planned: {reasons}", names=(*refused, *found.not_called))
    return apart


def name_regions(error: CaptureError, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Add to the error for a model that cannot be captured whole which of its blocks can be.

    Only where its forward may be run to find out, and runs.
    """
    if not isinstance(error, _BY_REGIONS) or fake_mode_of([*model.parameters()]) is not None:
        return
    blocks = repeated_blocks(model)
    try:
        found = discover(model, args, kwargs, blocks).regions if blocks else ()
    except Exception:  # the error that is reported is the one of the capture
        return
    if found:
        names = merged_names([region.name for region in found])
        error.args = (
            f'{error}. By itself each of {names} can be captured: regions="auto" (--regions auto) plans those',
            *error.args[1:],
        )


def _refuse_uncaptured(found: Discovery) -> None:
    for name, error in found.refused.items():
        error.args = (f"region {name!r}: {error}", *error.args[1:])
        raise error
    if found.not_called:
        raise RegionError(
            f"the step does not call the forward of {', '.join(found.not_called)} with gradients enabled, so there is nothing "
            "to plan: name regions that it calls, or give inputs with which it does",
            names=found.not_called,
        )
