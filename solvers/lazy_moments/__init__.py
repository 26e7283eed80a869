"""TODO."""

from remat_planner.solvers.lazy_moments.loop import LazyMoments, Run, bound_note
from remat_planner.solvers.lazy_moments.windows import solve_windows

__all__ = [
    "LazyMoments",
    "Run",
    "bound_note",
    "solve_windows",
]
