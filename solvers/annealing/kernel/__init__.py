"""The compiled inner loop of the annealing solver: an execution sequence under local change, with its live bytes at every run.

A change of one run touches only the stretch between the last use before it and the next use after it. The rules are those of
``schedules.simulate``: a read binds to the newest run of the producer; an item lives from a run to the last read before the
producer's next run; a lasting item's first instance lives to the end; replay bytes live from a node's first run to its last
where it runs more than once.

Needs numba. Arrays in, arrays out: no graphs, no solvers.
"""

from remat_planner.solvers.annealing.kernel.annealing_loop import anneal, ready
from remat_planner.solvers.annealing.kernel.arrays import (
    BARRIER_FROM,
    BARRIER_TO,
    BEST,
    BEST_LENGTH,
    COST,
    DEFAULT_MIX,
    EMPTY,
    FREE,
    INDEX,
    LATE,
    NODE,
    OVER,
    PLACE,
    REMOVABLE,
    RUNS,
    SLOTS,
    WEIGHT,
    MoveMix,
    SequenceState,
    Wiring,
)

__all__ = [
    "BARRIER_FROM",
    "BARRIER_TO",
    "BEST",
    "BEST_LENGTH",
    "COST",
    "DEFAULT_MIX",
    "EMPTY",
    "FREE",
    "INDEX",
    "LATE",
    "NODE",
    "OVER",
    "PLACE",
    "REMOVABLE",
    "RUNS",
    "SLOTS",
    "WEIGHT",
    "MoveMix",
    "SequenceState",
    "Wiring",
    "anneal",
    "ready",
]
