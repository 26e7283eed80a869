"""TODO."""

from remat_planner.solvers.two_level.search import TwoLevels

__all__ = [
    "TwoLevels",
]
