"""Counts the bytes of ``schedules.TrainingState`` and of the optimizer in a traced step.

``with_training_state`` counts the state's options and ``optimizer_needs`` the optimizer. The functions of one parameter are for
plans by regions, which have no graph of the whole step.
"""

from remat_planner.planner.training_state.constants import ACCUMULATED, BUCKETS, GATHERED, MASTER
from remat_planner.planner.training_state.counted_graph import rewired, with_training_state
from remat_planner.planner.training_state.dropped_outputs import retained_outputs, with_held_outputs
from remat_planner.planner.training_state.one_process import beyond_one_process
from remat_planner.planner.training_state.optimizer import EIGHT_BIT, NO_OPTIMIZER, OptimizerNeeds, optimizer_needs
from remat_planner.planner.training_state.per_parameter import bucket_bytes, gradient_bytes, master_weight_bytes
from remat_planner.planner.training_state.released_gradients import released_gradients

__all__ = [
    "ACCUMULATED",
    "BUCKETS",
    "EIGHT_BIT",
    "GATHERED",
    "MASTER",
    "NO_OPTIMIZER",
    "OptimizerNeeds",
    "beyond_one_process",
    "bucket_bytes",
    "gradient_bytes",
    "master_weight_bytes",
    "optimizer_needs",
    "released_gradients",
    "retained_outputs",
    "rewired",
    "with_held_outputs",
    "with_training_state",
]
