"""From a graph and a number of bytes to a schedule, and a bound that says how good it is.

``solve`` is the entrance: it asks a solver and lets the simulator judge the answer. ``methods/`` holds the registered solvers,
one file each; the other folders hold the machinery they share. Nothing here imports torch.

For a solver of your own, derive from ``Solver``, turn a ``Task`` into an ``Answer``, and pass an instance to ``solve``.
"""

from remat_planner.solvers.budget_curve import SolveOne, curve, with_bound
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.errors import OrderError, SolverMissingError, UnknownSolverError
from remat_planner.solvers.interface import ANY_SCHEDULE, ORDER_GIVEN, Answer, Conflict, Order, Reporter, Solution, Solver, Task
from remat_planner.solvers.polish import Polished
from remat_planner.solvers.problem import irreducible
from remat_planner.solvers.registry import available
from remat_planner.solvers.solve import check_order, solve

__all__ = [
    "ANY_SCHEDULE",
    "ORDER_GIVEN",
    "Answer",
    "Conflict",
    "Deadline",
    "Order",
    "OrderError",
    "Polished",
    "Reporter",
    "Solution",
    "SolveOne",
    "Solver",
    "SolverMissingError",
    "Task",
    "UnknownSolverError",
    "available",
    "check_order",
    "curve",
    "irreducible",
    "solve",
    "with_bound",
]
