"""TODO."""

from remat_planner.planner.planning.batch_search import MOST, Fit, Try, fit
from remat_planner.planner.planning.budget import AUTO, Budget, parse_budget
from remat_planner.planner.planning.call_guards import BoundSignature
from remat_planner.planner.planning.captures import remember_capture, remembered_capture, settings_of
from remat_planner.planner.planning.device_budget import budget_on_device
from remat_planner.planner.planning.input_forms import Form, forms_of
from remat_planner.planner.planning.repeated_blocks import merged_names, repeated_blocks
from remat_planner.planner.planning.settings import Loss, Progress, Settings, settings_for
from remat_planner.planner.planning.signatures import input_signature, mode_signature, state_signature
from remat_planner.planner.planning.solve_step import peak_without_recomputation, schedule_step
from remat_planner.planner.planning.step import Step, costed_step, own_origin, profile_step, trace_step, with_settings

__all__ = [
    "AUTO",
    "MOST",
    "BoundSignature",
    "Budget",
    "Fit",
    "Form",
    "Loss",
    "Progress",
    "Settings",
    "Step",
    "Try",
    "budget_on_device",
    "costed_step",
    "fit",
    "forms_of",
    "input_signature",
    "merged_names",
    "mode_signature",
    "own_origin",
    "parse_budget",
    "peak_without_recomputation",
    "profile_step",
    "remember_capture",
    "remembered_capture",
    "repeated_blocks",
    "schedule_step",
    "settings_for",
    "settings_of",
    "state_signature",
    "trace_step",
    "with_settings",
]
