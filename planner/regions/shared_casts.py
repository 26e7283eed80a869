"""Refuses a region whose parameters autocast casts once for the region and for the code outside it.

Eager adds up the gradients of all readers before it casts the sum back; a region by itself cannot.
"""

from __future__ import annotations

from torch import nn

from remat_planner.planner.regions.capture import CapturedRegion
from remat_planner.planner.runtime import shared_casts


def why_its_casts_are_shared(model: nn.Module, region: CapturedRegion, read_outside: frozenset[int]) -> str | None:
    """Why ``region`` cannot be planned by itself under the autocast that it is called in; None if it can.

    ``read_outside`` are the ids of the parameters that code outside all regions reads.
    """
    inside = {id(module) for module in region.block.modules()}
    for slot in shared_casts(region.joint):
        parameter = region.block.get_parameter(slot.name)
        others = [
            name or "the model itself"
            for name, module in model.named_modules()
            if id(module) not in inside and any(p is parameter for p in module._parameters.values())
        ]
        if others:
            readers = f"is also in {', '.join(others)}"
        elif region.calls > 1 or region.form:
            readers = "is read in each of its calls"
        elif id(parameter) in read_outside:
            readers = "is also read by what calls the region"
        else:
            continue
        return (
            f"its parameter {slot.name} {readers}, and autocast casts it once for all, which a region by itself cannot. "
            "Plan the whole model, leave the region out, or use torch.autocast(..., cache_enabled=False)"
        )
    return None
