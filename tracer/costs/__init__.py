"""Seconds, workspace bytes and FLOPs of operator calls: measured here, estimated for a named GPU, or read from a profile.

``op_costs`` answers for every operator of a captured step. ``record_memory`` and its relatives observe allocations on the CPU.
"""

from remat_planner.tracer.costs.cpu_allocations import mark, record_intervals, record_memory
from remat_planner.tracer.costs.devices import BLOCK, DEVICES, Link, device_named, rounded_up
from remat_planner.tracer.costs.errors import (
    CostError,
    DeviceNotAtHandError,
    LinkError,
    MeasurementError,
    MeasurementWarning,
    ProfileError,
    ProfileWarning,
    UnknownDeviceError,
)
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.links import Channels, measured_disk_channels
from remat_planner.tracer.costs.profile_file import Profile
from remat_planner.tracer.costs.same_bits import same_bits_in_parts
from remat_planner.tracer.costs.sources import (
    MEASURE,
    PROFILE_SUFFIX,
    OpCost,
    allocation_block,
    host_channels,
    is_for_gpu,
    op_costs,
    save_profile,
)
from remat_planner.tracer.costs.timing import Stopwatch

__all__ = [
    "BLOCK",
    "DEVICES",
    "MEASURE",
    "PROFILE_SUFFIX",
    "Channels",
    "CostError",
    "DeviceNotAtHandError",
    "Link",
    "LinkError",
    "MeasurementError",
    "MeasurementWarning",
    "OpCost",
    "Profile",
    "ProfileError",
    "ProfileWarning",
    "Stopwatch",
    "UnknownDeviceError",
    "allocation_block",
    "device_named",
    "flops",
    "host_channels",
    "is_for_gpu",
    "mark",
    "measured_disk_channels",
    "op_costs",
    "record_intervals",
    "record_memory",
    "rounded_up",
    "same_bits_in_parts",
    "save_profile",
]
