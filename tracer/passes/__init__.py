"""The passes that turn the recorded step into the joint graph, with eager's bits throughout.

In order: ``make_functional``, ``laid_out_as_owners`` (gradients), ``simplify``, ``annotate``.
"""

from remat_planner.tracer.passes.annotate import annotate
from remat_planner.tracer.passes.functionalize import make_functional
from remat_planner.tracer.passes.gradient_layout import laid_out_as_owners
from remat_planner.tracer.passes.gradient_sums import contributions
from remat_planner.tracer.passes.simplify import simplify

__all__ = ["annotate", "contributions", "laid_out_as_owners", "make_functional", "simplify"]
