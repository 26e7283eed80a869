"""Code generation: a schedule on a captured step becomes torch.fx graphs that run it.

``emit`` returns a ``Program``: the forward, and the backward in segments. ``TensorLayout`` describes how an incoming gradient
lies in memory. ``copyable_storages`` says what a schedule may copy to a pool.
"""

from remat_planner.planner.codegen.dataflow import Sharing
from remat_planner.planner.codegen.gradient_parts import copyable_storages
from remat_planner.planner.codegen.handovers import Handover
from remat_planner.planner.codegen.numbers_of_sizes import program_with
from remat_planner.planner.codegen.observed_order import order_is_observed
from remat_planner.planner.codegen.partial_backward import UndecidedError
from remat_planner.planner.codegen.program import Backward, Code, Program
from remat_planner.planner.codegen.rng_replay import generator_of
from remat_planner.planner.codegen.segments import emit
from remat_planner.planner.codegen.tensor_layout import TensorLayout

__all__ = [
    "Backward",
    "Code",
    "Handover",
    "Program",
    "Sharing",
    "TensorLayout",
    "UndecidedError",
    "copyable_storages",
    "emit",
    "generator_of",
    "order_is_observed",
    "program_with",
]
