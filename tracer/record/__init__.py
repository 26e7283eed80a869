"""Recording a training step on fake tensors: the operators that eager runs, in its order, and what must hold in later steps.

``record`` records the step, ``LossChooser`` decides where gradients arrive, ``effects_from_step_to_step`` says what a forward
leaves behind in Python state. ``watched_state`` lists all state that is watched and put back.
"""

from remat_planner.tracer.record.autocast import ambient_autocast, without_autocast
from remat_planner.tracer.record.eager_gradients import eager_gradients
from remat_planner.tracer.record.effects import RecordedEffects
from remat_planner.tracer.record.graph_equality import same_graph
from remat_planner.tracer.record.hooks import hooks_of, same_hooks
from remat_planner.tracer.record.later_steps import others_can_follow
from remat_planner.tracer.record.loss import EveryOutput, LossChooser, loss_of_output
from remat_planner.tracer.record.loss_call import loss_of_step
from remat_planner.tracer.record.module_attributes import swapped
from remat_planner.tracer.record.opaque_functions import FoundFunctions, OpaqueFunctions
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.record.random_state import random_state_kept
from remat_planner.tracer.record.record_step import record
from remat_planner.tracer.record.recorded_forward import forward_now, planned_forward
from remat_planner.tracer.record.recording import CapturedCall, Recording
from remat_planner.tracer.record.shown_warnings import shown_warnings_kept
from remat_planner.tracer.record.step_to_step import effects_from_step_to_step
from remat_planner.tracer.record.surroundings import (
    Switches,
    changed_switches,
    is_observed,
    refuse_checkpoint_around,
    refuse_surroundings,
    switches,
)
from remat_planner.tracer.record.tensor_keys import refuse_tensor_keys
from remat_planner.tracer.record.value_guards import KnownValues, UnknownValueError

__all__ = [
    "CapturedCall",
    "EveryOutput",
    "FoundFunctions",
    "KnownValues",
    "LossChooser",
    "OpaqueFunctions",
    "OutsideTensors",
    "RecordedEffects",
    "Recording",
    "Switches",
    "UnknownValueError",
    "ambient_autocast",
    "changed_switches",
    "eager_gradients",
    "effects_from_step_to_step",
    "forward_now",
    "hooks_of",
    "is_observed",
    "loss_of_output",
    "loss_of_step",
    "others_can_follow",
    "planned_forward",
    "random_state_kept",
    "record",
    "refuse_checkpoint_around",
    "refuse_surroundings",
    "refuse_tensor_keys",
    "same_graph",
    "same_hooks",
    "shown_warnings_kept",
    "swapped",
    "switches",
    "user_line",
    "without_autocast",
]
