"""autograd.Functions that tensors without memory cannot run, such as those that launch kernels by address: each call is one
operator, which runs the Function's own code as it is. So are operators on sparse tensors, and those that take functions.
"""

from remat_planner.tracer.functions.call import Call
from remat_planner.tracer.functions.checks import CheckFiredError, check_value, is_check, use_checks
from remat_planner.tracer.functions.custom_operators import (
    MissingExampleError,
    is_custom,
    result_by_example,
    run_on_copies,
    use_custom_operators,
)
from remat_planner.tracer.functions.errors import FunctionVariesError, SampleError
from remat_planner.tracer.functions.forward_call import ForwardCall
from remat_planner.tracer.functions.higher_order_call import HigherOrderCall
from remat_planner.tracer.functions.operator import RECORDED_AS, record_call, use_functions
from remat_planner.tracer.functions.operator_call import OperatorCall
from remat_planner.tracer.functions.purity import register_function
from remat_planner.tracer.functions.samples import sample
from remat_planner.tracer.functions.scripts import ScriptCall
from remat_planner.tracer.functions.stand_in import applied

__all__ = [
    "RECORDED_AS",
    "Call",
    "CheckFiredError",
    "ForwardCall",
    "FunctionVariesError",
    "HigherOrderCall",
    "MissingExampleError",
    "OperatorCall",
    "SampleError",
    "ScriptCall",
    "applied",
    "check_value",
    "is_check",
    "is_custom",
    "record_call",
    "register_function",
    "result_by_example",
    "run_on_copies",
    "sample",
    "use_checks",
    "use_custom_operators",
    "use_functions",
]
