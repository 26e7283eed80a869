"""The regions to plan: the modules that ``regions=`` means, captured where the step calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import KeptState, Loss
from remat_planner.planner.regions.capture import CapturedRegion, GradientLayouts
from remat_planner.planner.regions.discover import Discovery, discover
from remat_planner.planner.regions.select import AUTO, select_regions
from remat_planner.planner.regions.shared_casts import why_its_casts_are_shared
from remat_planner.tracer.errors import NothingToTrainError


def called_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    regions: str | type[nn.Module],
    loss: Loss | None = None,
    gradient_layouts: Mapping[str, GradientLayouts] | None = None,
    kept: KeptState | None = None,
) -> tuple[CapturedRegion, ...]:
    """The regions that ``regions`` means, captured, but those that have no backward: they retain nothing.

    "auto" also leaves out the blocks that cannot be planned. ``gradient_layouts`` and ``kept`` are those of ``discover``.

    Raises:
        RegionError: no region is left. Unless ``regions`` is "auto", also if the step does not call a region in training, calls
            it with inputs of several forms, or shares the casts of its parameters.
        tracer.CaptureError: a region cannot be captured, and ``regions`` is not "auto".
    """
    discovery = discover(model, args, kwargs, select_regions(model, regions), loss, gradient_layouts, kept)
    why_shared = {r.name: why_its_casts_are_shared(model, r, discovery.read_outside) for r in discovery.regions}
    shared = {name: why for name, why in why_shared.items() if why is not None}
    if regions != AUTO:
        _refuse_unplannable(discovery)
        for name, why in shared.items():
            raise RegionError(f"region {name!r}: {why}", names=(name,))
    regions_left = tuple(region for region in discovery.regions if region.name not in shared)
    if not regions_left:
        refused = {**discovery.refused, **shared}
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items()) or "the step calls none of them"
        raise RegionError(f"none of the repeated blocks can be planned: {reasons}", names=(*refused, *discovery.not_called))
    return regions_left


def _refuse_unplannable(discovery: Discovery) -> None:
    for name, error in discovery.refused.items():
        if discovery.regions and isinstance(error, NothingToTrainError):
            continue
        error.args = (f"region {name!r}: {error}", *error.args[1:])
        raise error
    if discovery.not_called:
        raise RegionError(
            f"the step does not call the forward of {', '.join(discovery.not_called)} with gradients enabled, so there is "
            "nothing to plan: name regions that it calls, or give inputs with which it does",
            names=discovery.not_called,
        )
