"""TODO."""

from remat_planner.tracer.joint.graph import (
    CapturedLoss,
    Gradient,
    Guard,
    Hooks,
    Joint,
    Lifetime,
    Operator,
    OutputLeaf,
    StateSlot,
)
from remat_planner.tracer.joint.graph_functions import graph_function, graph_function_name
from remat_planner.tracer.joint.module_state import State, is_plain, plain_attributes, state_of
from remat_planner.tracer.joint.nodes import operator_name, tensors_of
from remat_planner.tracer.joint.operators import (
    SAME_TENSOR,
    batch_norm_statistics,
    communicates_in_place,
    hidden_updates,
    is_collective,
    is_random,
    pin_reason,
    reads_a_number,
    sized_by_values,
    written_arguments,
)
from remat_planner.tracer.joint.output_tree import TreeOfLeaves, flatten, tensors_inside

__all__ = [
    "SAME_TENSOR",
    "CapturedLoss",
    "Gradient",
    "Guard",
    "Hooks",
    "Joint",
    "Lifetime",
    "Operator",
    "OutputLeaf",
    "State",
    "StateSlot",
    "TreeOfLeaves",
    "batch_norm_statistics",
    "communicates_in_place",
    "flatten",
    "graph_function",
    "graph_function_name",
    "hidden_updates",
    "is_collective",
    "is_plain",
    "is_random",
    "operator_name",
    "pin_reason",
    "plain_attributes",
    "reads_a_number",
    "sized_by_values",
    "state_of",
    "tensors_inside",
    "tensors_of",
    "written_arguments",
]
