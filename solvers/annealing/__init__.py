"""TODO."""

from remat_planner.solvers.annealing.search import COMPILING, anneal, best_of, in_time, nodes_of

__all__ = [
    "COMPILING",
    "anneal",
    "best_of",
    "in_time",
    "nodes_of",
]
