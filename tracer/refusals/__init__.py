"""TODO."""

from remat_planner.tracer.refusals.compiled import calls_compiled_function, refuse_compiled, refuse_compiled_around
from remat_planner.tracer.refusals.models_and_calls import (
    refuse_captured_state,
    refuse_frozen,
    refuse_hidden_tensors,
    refuse_misplaced_arguments,
    refuse_python_state,
    refuse_wrapped,
)

__all__ = [
    "calls_compiled_function",
    "refuse_captured_state",
    "refuse_compiled",
    "refuse_compiled_around",
    "refuse_frozen",
    "refuse_hidden_tensors",
    "refuse_misplaced_arguments",
    "refuse_python_state",
    "refuse_wrapped",
]
