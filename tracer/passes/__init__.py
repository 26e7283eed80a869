"""The passes that turn the recorded step into the joint graph, with eager's bits throughout.

In order: ``make_functional``, ``laid_out_as_owners`` and ``copy_small_first_terms`` (gradients), ``simplify``, ``annotate``.
"""

from remat_planner.tracer.passes.annotate import annotate
from remat_planner.tracer.passes.functionalize import make_functional
from remat_planner.tracer.passes.gradient_layout import laid_out_as_owners
from remat_planner.tracer.passes.gradient_sums import contributions, copy_small_first_terms
from remat_planner.tracer.passes.simplify import simplify
from remat_planner.tracer.passes.undo import undo_of

__all__ = [
    "annotate",
    "contributions",
    "copy_small_first_terms",
    "laid_out_as_owners",
    "make_functional",
    "simplify",
    "undo_of",
]
