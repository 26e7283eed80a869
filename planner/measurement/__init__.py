"""TODO."""

from remat_planner.planner.measurement.closeness import Closeness
from remat_planner.planner.measurement.peak import StorageMeter, measure_intervals, measure_peak
from remat_planner.planner.measurement.real_step import (
    Loss,
    detached,
    device_of,
    generator_states,
    left_as_it_was,
    one_step,
    restored,
    run_backward,
    same_bits,
)
from remat_planner.planner.measurement.verification import Verification

__all__ = [
    "Closeness",
    "Loss",
    "StorageMeter",
    "Verification",
    "detached",
    "device_of",
    "generator_states",
    "left_as_it_was",
    "measure_intervals",
    "measure_peak",
    "one_step",
    "restored",
    "run_backward",
    "same_bits",
]
