"""The package that looks inside PyTorch: capturing a training step, lowering it to a graph, and the costs of its ops."""

from remat_planner.tracer.capture import capture, record_forward
from remat_planner.tracer.costs import op_costs
from remat_planner.tracer.errors import CaptureError, InputsDoNotFitError
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower import Lowering, lower

__all__ = ["CaptureError", "InputsDoNotFitError", "Joint", "Lowering", "capture", "lower", "op_costs", "record_forward"]
