"""What people touch: plan a training step within a number of bytes, put the schedule on the model, check that it holds."""

from planner.apply import apply_schedule, remove_schedule
from planner.errors import BatchError, BudgetError, InfeasibleBudgetError, OptimizerError
from planner.fit import Fit, fit
from planner.plan import plan, trace
from planner.verify import Verification, verify
from schedules import Schedule

__all__ = [
    "BatchError",
    "BudgetError",
    "Fit",
    "InfeasibleBudgetError",
    "OptimizerError",
    "Schedule",
    "Verification",
    "apply_schedule",
    "fit",
    "plan",
    "remove_schedule",
    "trace",
    "verify",
]
