"""TODO."""

from remat_planner.planner.codegen.program import Code, Program
from remat_planner.planner.codegen.segments import emit
from remat_planner.planner.codegen.tensor_layout import IncomingForm

__all__ = [
    "Code",
    "IncomingForm",
    "Program",
    "emit",
]
