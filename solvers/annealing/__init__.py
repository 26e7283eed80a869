"""Simulated annealing of execution sequences, with a compiled inner loop.

For solvers: ``anneal``, ``anneal_in_any_order`` and ``best_of`` search, and ``in_time`` says whether the kernel is ready.
"""

from remat_planner.solvers.annealing.any_order import anneal_in_any_order
from remat_planner.solvers.annealing.search import AnnealingOptions, anneal, best_of, in_time

__all__ = [
    "AnnealingOptions",
    "anneal",
    "anneal_in_any_order",
    "best_of",
    "in_time",
]
