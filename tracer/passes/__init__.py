"""TODO."""

from remat_planner.tracer.passes.annotate import annotate
from remat_planner.tracer.passes.functionalize import make_functional, refuse_in_place
from remat_planner.tracer.passes.gradient_layout import contributions, laid_out_as_owners
from remat_planner.tracer.passes.simplify import simplify

__all__ = [
    "annotate",
    "contributions",
    "laid_out_as_owners",
    "make_functional",
    "refuse_in_place",
    "simplify",
]
