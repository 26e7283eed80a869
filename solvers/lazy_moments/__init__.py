"""Lazy moments: an exact method for a given order of first runs, with a lower bound for every budget.

A small integer program watches memory at a few moments of the step; more moments are added where its answer overflows the
budget. ``LazyMoments`` is the loop, ``solve_windows`` improves a schedule that others found.
"""

from remat_planner.solvers.lazy_moments.any_order import any_order_bound
from remat_planner.solvers.lazy_moments.copy_program import CopyProgram, CopyShares
from remat_planner.solvers.lazy_moments.loop import LazyMoments, bound_note
from remat_planner.solvers.lazy_moments.options import LazyMomentsOptions
from remat_planner.solvers.lazy_moments.simulated_sequence import SimulatedSequence
from remat_planner.solvers.lazy_moments.windows import solve_windows

__all__ = [
    "CopyProgram",
    "CopyShares",
    "LazyMoments",
    "LazyMomentsOptions",
    "SimulatedSequence",
    "any_order_bound",
    "bound_note",
    "solve_windows",
]
