"""TODO."""

from remat_planner.solvers.milp.highs import TOLERANCE, Watch
from remat_planner.solvers.milp.multiple_choice_knapsack import Moment, select, select_lowest
from remat_planner.solvers.milp.program import Outcome, Program

__all__ = [
    "TOLERANCE",
    "Moment",
    "Outcome",
    "Program",
    "Watch",
    "select",
    "select_lowest",
]
