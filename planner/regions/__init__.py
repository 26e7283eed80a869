"""Plans some blocks of a model and leaves the rest as it is, for models that cannot be captured whole.

``plan_regions`` plans, ``apply_regions`` and ``remove_regions`` replace and restore the forwards of the blocks.
"""

from remat_planner.planner.regions.apply import apply_regions, remove_regions
from remat_planner.planner.regions.forward import RegionForward, planned_regions, without_regions
from remat_planner.planner.regions.instead import plan_regions_instead
from remat_planner.planner.regions.plan import plan_regions
from remat_planner.planner.regions.select import AUTO_REGIONS, named_in
from remat_planner.planner.regions.suggest import suggest_regions

__all__ = [
    "AUTO_REGIONS",
    "RegionForward",
    "apply_regions",
    "named_in",
    "plan_regions",
    "plan_regions_instead",
    "planned_regions",
    "remove_regions",
    "suggest_regions",
    "without_regions",
]
