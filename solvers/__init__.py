"""From a graph and a number of bytes to a schedule and a proof of how good it is.

One file per method behind one small interface (``base``), a registry that knows which of them can run here, and one entrance,
``solve``, which lets the simulator judge every answer. No torch in here.
"""

from solvers.base import Answer, Deadline, Reporter, Solution, Solver, Status, Task
from solvers.curve import curve
from solvers.errors import SolverMissingError, UnknownSolverError
from solvers.registry import available
from solvers.solving import solve

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
