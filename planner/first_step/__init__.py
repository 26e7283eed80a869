"""A model that is planned at its first training call: one line, no example inputs.

``budgeted`` is what users call. ``SeenLoss`` is the loss of their loop, as its first step shows it.
"""

from remat_planner.planner.first_step.budgeted import budgeted
from remat_planner.planner.first_step.in_place import budgeted_in_place
from remat_planner.planner.first_step.seen_loss import LossNotSeenError, SeenLoss, watch_loss

__all__ = ["LossNotSeenError", "SeenLoss", "budgeted", "budgeted_in_place", "watch_loss"]
