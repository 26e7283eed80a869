"""What every method works on: the reduced form of a graph, sequences of its nodes, and lower bounds on their peak."""

from remat_planner.solvers.problem.executions import Executions
from remat_planner.solvers.problem.least_peak import irreducible, least_peak, least_peak_forward
from remat_planner.solvers.problem.reduced_graph import Bools, Floats, Ints, Problem
from remat_planner.solvers.problem.sequence_builder import SequenceBuilder

__all__ = [
    "Bools",
    "Executions",
    "Floats",
    "Ints",
    "Problem",
    "SequenceBuilder",
    "irreducible",
    "least_peak",
    "least_peak_forward",
]
