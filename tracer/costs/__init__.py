"""Seconds, workspace bytes and FLOPs of operator calls: measured here, estimated for a named GPU, or read from a profile.

``op_costs`` answers for every operator of a captured step. ``record_memory`` and its relatives observe allocations on the CPU.
"""

from remat_planner.tracer.costs.cpu_allocations import mark, record_intervals, record_memory
from remat_planner.tracer.costs.devices import BLOCK, DEVICES, device_named, rounded_up
from remat_planner.tracer.costs.errors import (
    CostError,
    DeviceNotAtHandError,
    MeasurementError,
    MeasurementWarning,
    ProfileError,
    ProfileWarning,
    UnknownDeviceError,
)
from remat_planner.tracer.costs.profile_file import Profile
from remat_planner.tracer.costs.sources import MEASURE, PROFILE_SUFFIX, allocation_block, is_for_gpu, op_costs, save_profile

__all__ = [
    "BLOCK",
    "DEVICES",
    "MEASURE",
    "PROFILE_SUFFIX",
    "CostError",
    "DeviceNotAtHandError",
    "MeasurementError",
    "MeasurementWarning",
    "Profile",
    "ProfileError",
    "ProfileWarning",
    "UnknownDeviceError",
    "allocation_block",
    "device_named",
    "is_for_gpu",
    "mark",
    "op_costs",
    "record_intervals",
    "record_memory",
    "rounded_up",
    "save_profile",
]
