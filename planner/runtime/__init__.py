"""TODO."""

from remat_planner.planner.runtime.autocast_cache import shared_casts
from remat_planner.planner.runtime.autograd import first_and_last_node
from remat_planner.planner.runtime.module_view import twin_of
from remat_planner.planner.runtime.planned_call import PlannedCall, Replan, not_traced
from remat_planner.planner.runtime.recapture import recapture

__all__ = [
    "PlannedCall",
    "Replan",
    "first_and_last_node",
    "not_traced",
    "recapture",
    "shared_casts",
    "twin_of",
]
