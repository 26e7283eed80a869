"""Schedules that keep, recompute or copy: the decisions, the sequence that they describe, and a search over them.

A *gap* (``gaps``) lies between two uses of an item, and a decision says for each gap whether the item stays in it, leaves and
is recomputed, or leaves for a pool and is loaded. ``kernel`` turns decisions into a sequence with the places of all transfers,
so that the budget is kept by position and copies hide behind ops. ``plan`` is the entrance, ``search`` improves decisions.
"""

from remat_planner.solvers.copies.baselines import everything, inputs_of_layers, most_seconds_per_byte
from remat_planner.solvers.copies.gaps import KEEP, LEAVE, Gaps, leaving_at
from remat_planner.solvers.copies.plan import CopyPlanner
from remat_planner.solvers.copies.search import improve

__all__ = [
    "KEEP",
    "LEAVE",
    "CopyPlanner",
    "Gaps",
    "everything",
    "improve",
    "inputs_of_layers",
    "leaving_at",
    "most_seconds_per_byte",
]
