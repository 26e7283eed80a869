"""From the joint graph to the language of schedules: ops, values and the storages that hold them, then their costs."""

from remat_planner.tracer.lower.build import lower
from remat_planner.tracer.lower.chunked_head import heads
from remat_planner.tracer.lower.chunked_products import betweens
from remat_planner.tracer.lower.lowering import LOSS, Lowering
from remat_planner.tracer.lower.split_gradients import pairs, splittable
from remat_planner.tracer.lower.sums_in_place import SUM_IN_PLACE
from remat_planner.tracer.lower.variants import chunks_of, has_variant, in_less_memory, variant_as

__all__ = [
    "LOSS",
    "SUM_IN_PLACE",
    "Lowering",
    "betweens",
    "chunks_of",
    "has_variant",
    "heads",
    "in_less_memory",
    "lower",
    "pairs",
    "splittable",
    "variant_as",
]
