"""The only package that looks inside PyTorch: capturing a training step, lowering it to a graph, costing its ops."""

from tracer.capture import capture
from tracer.costs import op_costs
from tracer.errors import CaptureError
from tracer.joint import Joint
from tracer.lower import Lowering, lower

__all__ = ["CaptureError", "Joint", "Lowering", "capture", "lower", "op_costs"]
