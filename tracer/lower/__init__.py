"""From the joint graph to the language of schedules: ops, values and the storages that hold them, then their costs."""

from remat_planner.tracer.lower.build import lower
from remat_planner.tracer.lower.lowering import LOSS, Lowering
from remat_planner.tracer.lower.sums_in_place import SUM_IN_PLACE

__all__ = ["LOSS", "SUM_IN_PLACE", "Lowering", "lower"]
