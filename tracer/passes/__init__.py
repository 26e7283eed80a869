"""The passes that turn the recorded step into the joint graph, with eager's bits throughout.

In order: ``make_functional``, ``return_as_autograd``, ``keep_apart``, ``mark_sums_of_views``, ``copy_small_first_terms``,
``simplify``, ``annotate``.
"""

from remat_planner.tracer.passes.annotate import annotate
from remat_planner.tracer.passes.effects import updated_placeholders
from remat_planner.tracer.passes.functionalize import make_functional
from remat_planner.tracer.passes.gradient_sums import contributions, copy_small_first_terms, mark_sums_of_views
from remat_planner.tracer.passes.keep_apart import keep_apart
from remat_planner.tracer.passes.results import Placeholders, return_as_autograd, returned_by
from remat_planner.tracer.passes.simplify import simplify
from remat_planner.tracer.passes.undo import undo_of

__all__ = [
    "Placeholders",
    "annotate",
    "contributions",
    "copy_small_first_terms",
    "keep_apart",
    "make_functional",
    "mark_sums_of_views",
    "return_as_autograd",
    "returned_by",
    "simplify",
    "undo_of",
    "updated_placeholders",
]
