"""Parameters that autocast casts once for a region and for what is outside of it."""

from __future__ import annotations

from torch import nn

from remat_planner.planner.regions.capture import Region
from remat_planner.planner.runtime import shared_casts


def why_its_casts_are_shared(model: nn.Module, region: Region, read_outside: frozenset[int]) -> str | None:
    """What is wrong with planning ``region`` by itself under the autocast that it is called in; None where nothing is.

    ``read_outside`` are the ids of the parameters that something outside of all regions reads.
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
            who = f"is also in {', '.join(others)}"
        elif region.calls > 1:
            who = f"is read in each of its {region.calls} calls"
        elif id(parameter) in read_outside:
            who = "is also read by what calls the region"
        else:
            continue
        return (
            f"its parameter {slot.name} {who}, and autocast casts it once for all, which a region by itself cannot. "
            "Plan the whole model, leave the region out, or use torch.autocast(..., cache_enabled=False)"
        )
    return None
