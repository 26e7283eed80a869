"""TODO."""

from remat_planner.solvers.problem.least_peak import least_peak, least_peak_forward
from remat_planner.solvers.problem.reduced_graph import Bools, Floats, Ints, Problem
from remat_planner.solvers.problem.sequence_builder import Emitter

__all__ = [
    "Bools",
    "Emitter",
    "Floats",
    "Ints",
    "Problem",
    "least_peak",
    "least_peak_forward",
]
