"""From the joint graph to the language of schedules: ops, values and the storages that hold them, then their costs."""

from remat_planner.tracer.lower.build import lower
from remat_planner.tracer.lower.lowering import LOSS, Lowering
from remat_planner.tracer.lower.split_gradients import has_same_bits_in_parts, pairs, split_as, splittable, with_split_gradients
from remat_planner.tracer.lower.sums_in_place import SUM_IN_PLACE

__all__ = [
    "LOSS",
    "SUM_IN_PLACE",
    "Lowering",
    "has_same_bits_in_parts",
    "lower",
    "pairs",
    "split_as",
    "splittable",
    "with_split_gradients",
]
