"""Steps for many sizes of their inputs: captured once with symbols for the sizes, then written for the sizes of a call."""

from remat_planner.tracer.size_expressions import Box, merged, without
from remat_planner.tracer.sizes.capture import capture_sized
from remat_planner.tracer.sizes.comparison import is_same_joint
from remat_planner.tracer.sizes.errors import NotSizedError
from remat_planner.tracer.sizes.sized_joint import OtherSizes, SizedJoint

__all__ = ["Box", "NotSizedError", "OtherSizes", "SizedJoint", "capture_sized", "is_same_joint", "merged", "without"]
