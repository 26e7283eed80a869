"""Planning a model on several ranks: sharded tensors, wrapped modules, and decisions that all ranks share."""

from remat_planner.planner.distributed.ranks import Ranks, in_process_group, runs_to_measure_peak
from remat_planner.planner.distributed.sharding import (
    is_fully_sharded,
    is_sharded,
    local_part,
    parallel_wrapper,
    shard_count,
    unsharded_class,
)

__all__ = [
    "Ranks",
    "in_process_group",
    "is_fully_sharded",
    "is_sharded",
    "local_part",
    "parallel_wrapper",
    "runs_to_measure_peak",
    "shard_count",
    "unsharded_class",
]
