"""From a graph and a number of bytes to a schedule and a proof of how good it is.

One file per method behind one small interface (``base``), a registry that knows which of them can run here, and one entrance,
``solve``, which lets the simulator judge every answer. No torch in here.
"""

from remat_planner.solvers.budget_curve import curve
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.errors import SolverMissingError, UnknownSolverError
from remat_planner.solvers.interface import Answer, Reporter, Solution, Solver, Status, Task
from remat_planner.solvers.registry import available
from remat_planner.solvers.solve import solve

__all__ = [
    "Answer",
    "Deadline",
    "Reporter",
    "Solution",
    "Solver",
    "SolverMissingError",
    "Status",
    "Task",
    "UnknownSolverError",
    "available",
    "curve",
    "solve",
]
