"""What the planner knows about operators: one record for each, and the questions that the other rooms ask.

``OperatorFacts`` is the record, ``tables`` has those of PyTorch's operators, ``register_operator`` adds those of users.
``OpCall`` is one call of an operator, which FLOPs, rooflines and sample inputs are functions of.
"""

from remat_planner.tracer.operators.behaviour import (
    batch_norm_statistics,
    communicates_in_place,
    hidden_updates,
    is_collective,
    is_pure,
    is_random,
    pin_reason,
)
from remat_planner.tracer.operators.computed_numbers import with_some_number
from remat_planner.tracer.operators.declared import (
    SAME_TENSOR,
    argument_of,
    argument_position,
    bound_arguments,
    moves_in_place,
    reads_a_number,
    sized_by_values,
    takes_generator,
    written_arguments,
)
from remat_planner.tracer.operators.eager_gradients import (
    HAVE_EAGER_GRADIENTS,
    gradient_name,
    gradient_operator,
    operator_of_gradient,
)
from remat_planner.tracer.operators.facts import OperatorFacts, Roofline, SampleInputs, Values
from remat_planner.tracer.operators.filled_results import filled, filling_number
from remat_planner.tracer.operators.graph_functions import graph_function, graph_function_name, is_random_fill
from remat_planner.tracer.operators.op_call import OpCall, TensorSpec, op_call
from remat_planner.tracer.operators.registry import (
    UnknownOperatorError,
    facts_of,
    register_operator,
    unregister_operator,
    with_facts,
)
from remat_planner.tracer.operators.sized_results import SizedResult, sized_result
from remat_planner.tracer.operators.traffic import all_but_first, each_once

__all__ = [
    "HAVE_EAGER_GRADIENTS",
    "SAME_TENSOR",
    "OpCall",
    "OperatorFacts",
    "Roofline",
    "SampleInputs",
    "SizedResult",
    "TensorSpec",
    "UnknownOperatorError",
    "Values",
    "all_but_first",
    "argument_of",
    "argument_position",
    "batch_norm_statistics",
    "bound_arguments",
    "communicates_in_place",
    "each_once",
    "facts_of",
    "filled",
    "filling_number",
    "gradient_name",
    "gradient_operator",
    "graph_function",
    "graph_function_name",
    "hidden_updates",
    "is_collective",
    "is_pure",
    "is_random",
    "is_random_fill",
    "moves_in_place",
    "op_call",
    "operator_of_gradient",
    "pin_reason",
    "reads_a_number",
    "register_operator",
    "sized_by_values",
    "sized_result",
    "takes_generator",
    "unregister_operator",
    "with_facts",
    "with_some_number",
    "written_arguments",
]
