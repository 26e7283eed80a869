"""Two levels: an integer program inside each distinct block of a step, a dynamic program over the chain of blocks."""

from remat_planner.solvers.two_level.options import TwoLevelOptions
from remat_planner.solvers.two_level.search import TwoLevels

__all__ = [
    "TwoLevelOptions",
    "TwoLevels",
]
