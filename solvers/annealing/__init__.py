"""Simulated annealing of execution sequences, with a compiled inner loop.

For solvers: ``anneal`` and ``best_of`` search, and ``in_time`` says whether the kernel is ready.
"""

from remat_planner.solvers.annealing.search import AnnealingOptions, anneal, best_of, in_time

__all__ = [
    "AnnealingOptions",
    "anneal",
    "best_of",
    "in_time",
]
