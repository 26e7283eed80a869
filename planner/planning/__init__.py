"""Planning a whole model: budgets, settings, traced steps, and solving for a schedule.

``settings_for`` checks the arguments of ``plan``, ``trace_step`` captures and costs a step, and ``schedule_step`` solves it.
``fit`` repeats that for several batches. The signatures and ``BoundSignature`` tell whether a later call is the captured one.
"""

from remat_planner.planner.planning.batch_search import LARGEST_BATCH, Batches, Fit, Try, fit
from remat_planner.planner.planning.budget import AUTO, LEAST_FOUND, Budget, parse_budget
from remat_planner.planner.planning.call_differences import CallNow, Difference, differences_of
from remat_planner.planner.planning.call_guards import BoundSignature
from remat_planner.planner.planning.captures import (
    asked_relatively,
    remember_capture,
    remembered_capture,
    remembered_sized,
    settings_of,
)
from remat_planner.planner.planning.device_budget import budget_on_device
from remat_planner.planner.planning.free_savings import FREE_OVERHEAD
from remat_planner.planner.planning.host_memory import available_on_host
from remat_planner.planner.planning.input_forms import InputForm, input_forms
from remat_planner.planner.planning.offload import Offload, link_on_paper
from remat_planner.planner.planning.origin import new_origin
from remat_planner.planner.planning.other_targets import trace_step_like
from remat_planner.planner.planning.planned_forms import describe_call, is_form_of, planned_form
from remat_planner.planner.planning.range_parts import schedule_ranges
from remat_planner.planner.planning.repeated_blocks import has_forward, repeated_blocks
from remat_planner.planner.planning.replanning import ENOUGH_FOR_REPLAN, REPLAN_TIME_LIMIT, limited, settings_for_replan
from remat_planner.planner.planning.settings import Loss, Progress, Settings, settings_for
from remat_planner.planner.planning.signatures import input_signature, mode_signature, state_signature
from remat_planner.planner.planning.size_ranges import form_at, size_ranges
from remat_planner.planner.planning.sized_steps import (
    Numbers,
    OneSizeError,
    SizedStep,
    capture_numbers,
    capture_ranges,
    capture_sized_step,
)
from remat_planner.planner.planning.solve_budgets import solve_budgets
from remat_planner.planner.planning.solve_step import least_budget, peak_function, peak_without_recomputation, schedule_step
from remat_planner.planner.planning.step import Step, costed_step, eager_graph, profile_step, trace_step, with_settings

__all__ = [
    "AUTO",
    "ENOUGH_FOR_REPLAN",
    "FREE_OVERHEAD",
    "LARGEST_BATCH",
    "LEAST_FOUND",
    "REPLAN_TIME_LIMIT",
    "Batches",
    "BoundSignature",
    "Budget",
    "CallNow",
    "Difference",
    "Fit",
    "InputForm",
    "Loss",
    "Numbers",
    "Offload",
    "OneSizeError",
    "Progress",
    "Settings",
    "SizedStep",
    "Step",
    "Try",
    "asked_relatively",
    "available_on_host",
    "budget_on_device",
    "capture_numbers",
    "capture_ranges",
    "capture_sized_step",
    "costed_step",
    "describe_call",
    "differences_of",
    "eager_graph",
    "fit",
    "form_at",
    "has_forward",
    "input_forms",
    "input_signature",
    "is_form_of",
    "least_budget",
    "limited",
    "link_on_paper",
    "mode_signature",
    "new_origin",
    "parse_budget",
    "peak_function",
    "peak_without_recomputation",
    "planned_form",
    "profile_step",
    "remember_capture",
    "remembered_capture",
    "remembered_sized",
    "repeated_blocks",
    "schedule_ranges",
    "schedule_step",
    "settings_for",
    "settings_for_replan",
    "settings_of",
    "size_ranges",
    "solve_budgets",
    "state_signature",
    "trace_step",
    "trace_step_like",
    "with_settings",
]
