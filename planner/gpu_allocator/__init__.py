"""TODO."""

from remat_planner.planner.gpu_allocator.replay import Reserved, reserved_by
from remat_planner.planner.gpu_allocator.solve import Taken, allocator_bytes, solve_on_gpu

__all__ = [
    "Reserved",
    "Taken",
    "allocator_bytes",
    "reserved_by",
    "solve_on_gpu",
]
