"""Schedules that keep, recompute or copy: the decisions, the sequence that they describe, and a search over them.

A *gap* (``gaps``) lies between two uses of an item, and a decision says for each gap whether the item stays in it, leaves and
is recomputed, or leaves for a pool and is loaded. ``kernel`` turns decisions into a sequence with the places of all transfers,
so that the budget is kept by position and copies hide behind ops; ``plan`` calls it. ``baselines`` decides as policies in use
today do, ``rounding`` as a relaxation says, and ``search`` improves decisions. ``loop`` does all of that for a task. ``swept``
prepares the sequence of a chain solver, with what it stores and loads, for the same placing of transfers.
"""

from remat_planner.solvers.copies.baselines import everything, inputs_of_layers, most_seconds_per_byte
from remat_planner.solvers.copies.loop import NO_TIME_TO_COMPILE, CopySearch
from remat_planner.solvers.copies.plan import CopyPlanner
from remat_planner.solvers.copies.swept import timed

__all__ = [
    "NO_TIME_TO_COMPILE",
    "CopyPlanner",
    "CopySearch",
    "everything",
    "inputs_of_layers",
    "most_seconds_per_byte",
    "timed",
]
