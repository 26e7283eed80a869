"""Running a planned module: which program a call runs, and how autograd runs it.

``PlannedCall`` is what a planned module does when it is called. The other names serve applying, exports,
regions and measurement.
"""

from remat_planner.planner.runtime.audit import Audit
from remat_planner.planner.runtime.autocast_cache import shared_casts
from remat_planner.planner.runtime.autograd import first_and_last_node
from remat_planner.planner.runtime.first_call_module import first_call_module, let_become
from remat_planner.planner.runtime.module_view import module_view_of
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.planner.runtime.planned_module import call_of, is_planned_module, planned_module
from remat_planner.planner.runtime.program_source import Replan
from remat_planner.planner.runtime.recapture import recapture
from remat_planner.planner.runtime.step_watch import Flight, Watch
from remat_planner.planner.runtime.torch_compile import hidden_from_torch_compile
from remat_planner.planner.runtime.unplanned import unplanned_on_purpose

__all__ = [
    "Audit",
    "Flight",
    "PlannedCall",
    "Replan",
    "Watch",
    "call_of",
    "first_and_last_node",
    "first_call_module",
    "hidden_from_torch_compile",
    "is_planned_module",
    "let_become",
    "module_view_of",
    "planned_module",
    "recapture",
    "shared_casts",
    "unplanned_on_purpose",
]
