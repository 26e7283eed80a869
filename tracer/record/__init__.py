"""TODO."""

from remat_planner.tracer.record.ambient_modes import ambient_autocast, random_state_kept, without_autocast
from remat_planner.tracer.record.hooks import REGISTRIES, hooks_of
from remat_planner.tracer.record.loss import LossChooser, every_output
from remat_planner.tracer.record.module_attributes import swapped
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.record.recorder import record
from remat_planner.tracer.record.recording import Call, Recording
from remat_planner.tracer.record.step_to_step import lost_from_step_to_step, same_graph
from remat_planner.tracer.record.value_guards import KnownValues, UnknownValueError

__all__ = [
    "REGISTRIES",
    "Call",
    "KnownValues",
    "LossChooser",
    "Recording",
    "UnknownValueError",
    "ambient_autocast",
    "every_output",
    "hooks_of",
    "lost_from_step_to_step",
    "random_state_kept",
    "record",
    "same_graph",
    "swapped",
    "user_line",
    "without_autocast",
]
