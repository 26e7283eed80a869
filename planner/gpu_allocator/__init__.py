"""A GPU's caching allocator on paper: the bytes that it hands out and reserves for a schedule, and budgets on those bytes."""

from remat_planner.planner.gpu_allocator.allocator_peak import AllocatorPeak, allocator_peak
from remat_planner.planner.gpu_allocator.reserved import Reserved, reserved_by
from remat_planner.planner.gpu_allocator.solve import solve_on_gpu

__all__ = [
    "AllocatorPeak",
    "Reserved",
    "allocator_peak",
    "reserved_by",
    "solve_on_gpu",
]
