"""A training step as a chain of stages, and the machinery of the chain solvers.

``stages`` cuts a graph into a chain, ``stage_options`` measures its stages, ``actions`` turns the actions of a checkpointing
algorithm into nodes. ``persistent_dp`` is rotor's dynamic program, ``offloading_dp`` that of pofo, ``persistent_schedules``
what both need around it; ``binomial`` and ``snapshot_search`` serve revolve and treeverse, ``segments`` and
``saved_set_sequence`` the policies that checkpoint segments of the forward.
"""

from remat_planner.solvers.chain.actions import Action, SweptSequence, sweep
from remat_planner.solvers.chain.binomial import repetitions, split
from remat_planner.solvers.chain.offloading_dp import Link, Segment, offloading_ready, offloading_segments
from remat_planner.solvers.chain.persistent_dp import Stages, steps, table
from remat_planner.solvers.chain.persistent_schedules import persistent_actions, short_views, slots_of
from remat_planner.solvers.chain.saved_set_sequence import just_in_time
from remat_planner.solvers.chain.segments import kept_by_segments, module_segments
from remat_planner.solvers.chain.snapshot_search import SnapshotSolver
from remat_planner.solvers.chain.stage_options import in_slots, measure
from remat_planner.solvers.chain.stages import Chain, Forward, chain_at, chains, fixed_items

__all__ = [
    "Action",
    "Chain",
    "Forward",
    "Link",
    "Segment",
    "SnapshotSolver",
    "Stages",
    "SweptSequence",
    "chain_at",
    "chains",
    "fixed_items",
    "in_slots",
    "just_in_time",
    "kept_by_segments",
    "measure",
    "module_segments",
    "offloading_ready",
    "offloading_segments",
    "persistent_actions",
    "repetitions",
    "short_views",
    "slots_of",
    "split",
    "steps",
    "sweep",
    "table",
]
