"""TODO."""

from remat_planner.planner.distributed.ranks import (
    Ranks,
    is_fully_sharded,
    is_sharded,
    measurements,
    others_wait,
    own_part,
    parallel_wrapper,
    shards_of,
    unsharded_class,
)

__all__ = [
    "Ranks",
    "is_fully_sharded",
    "is_sharded",
    "measurements",
    "others_wait",
    "own_part",
    "parallel_wrapper",
    "shards_of",
    "unsharded_class",
]
