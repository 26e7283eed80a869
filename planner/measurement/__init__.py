"""Running real training steps: measuring their peaks, comparing their tensors, and leaving the model as it was."""

from remat_planner.planner.measurement.compared_state import compared_state
from remat_planner.planner.measurement.comparison import ToleranceCheck, same_bits, same_value
from remat_planner.planner.measurement.filled_once import FilledOnce
from remat_planner.planner.measurement.kept_state import KeptState
from remat_planner.planner.measurement.kept_tensors import kept_copy
from remat_planner.planner.measurement.parameter_update import update_parameters
from remat_planner.planner.measurement.peak import measure_intervals, measure_peak
from remat_planner.planner.measurement.random_generators import KeptGenerators
from remat_planner.planner.measurement.real_step import Loss, detached, device_of, one_step, run_backward, seconds_of
from remat_planner.planner.measurement.state_restored import state_restored
from remat_planner.planner.measurement.storage_meter import StorageMeter
from remat_planner.planner.measurement.tensor_parts import parts_of
from remat_planner.planner.measurement.times_in_turn import StepTimes, times_in_turn
from remat_planner.planner.measurement.verification import Verification

__all__ = [
    "FilledOnce",
    "KeptGenerators",
    "KeptState",
    "Loss",
    "StepTimes",
    "StorageMeter",
    "ToleranceCheck",
    "Verification",
    "compared_state",
    "detached",
    "device_of",
    "kept_copy",
    "measure_intervals",
    "measure_peak",
    "one_step",
    "parts_of",
    "run_backward",
    "same_bits",
    "same_value",
    "seconds_of",
    "state_restored",
    "times_in_turn",
    "update_parameters",
]
