"""Mixed-integer programs on HiGHS: programs in general, and the choice of one option per part within a number of bytes."""

from remat_planner.solvers.milp.highs import TOLERANCE, Watch
from remat_planner.solvers.milp.multiple_choice_knapsack import Moment, Room, select, select_lowest
from remat_planner.solvers.milp.program import MixedIntegerProgram, Outcome

__all__ = [
    "TOLERANCE",
    "MixedIntegerProgram",
    "Moment",
    "Outcome",
    "Room",
    "Watch",
    "select",
    "select_lowest",
]
