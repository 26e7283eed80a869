"""Steps for many sizes of their inputs: captured once with symbols for the sizes, then written for the sizes of a call."""

from remat_planner.tracer.sizes.capture import capture_sized
from remat_planner.tracer.sizes.comparison import is_same_joint
from remat_planner.tracer.sizes.errors import NotSizedError
from remat_planner.tracer.sizes.sized_joint import SizedJoint

__all__ = ["NotSizedError", "SizedJoint", "capture_sized", "is_same_joint"]
