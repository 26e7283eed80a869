"""Planning some blocks of a model and running the rest as it is."""

from remat_planner.planner.regions.apply import apply_regions, remove_regions
from remat_planner.planner.regions.called import name_regions
from remat_planner.planner.regions.forward import RegionForward, planned_regions, put_back, take_off
from remat_planner.planner.regions.options import Part
from remat_planner.planner.regions.plan import plan_regions

__all__ = [
    "Part",
    "RegionForward",
    "apply_regions",
    "name_regions",
    "plan_regions",
    "planned_regions",
    "put_back",
    "remove_regions",
    "take_off",
]
