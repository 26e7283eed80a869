"""TODO."""

from remat_planner.planner.training_state.counted_graph import added_gradients, with_training_state, without_gradients
from remat_planner.planner.training_state.optimizer import EIGHT_BIT, optimizer_needs
from remat_planner.planner.training_state.options import (
    ACCUMULATED,
    AS_THE_MODEL,
    BUCKETS,
    GATHERED,
    MASTER,
    NO_OPTIMIZER,
    VIEWS,
    OptimizerNeeds,
    TrainingState,
    bucket_bytes,
    lets_go_of_gradients,
)

__all__ = [
    "ACCUMULATED",
    "AS_THE_MODEL",
    "BUCKETS",
    "EIGHT_BIT",
    "GATHERED",
    "MASTER",
    "NO_OPTIMIZER",
    "VIEWS",
    "OptimizerNeeds",
    "TrainingState",
    "added_gradients",
    "bucket_bytes",
    "lets_go_of_gradients",
    "optimizer_needs",
    "with_training_state",
    "without_gradients",
]
