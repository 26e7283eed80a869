"""What no partition of a joint graph is below: seconds within a number of bytes, and bytes.

The class is that of ``FusedStep.evaluate``: each value of the forward is saved, or computed at most once more; both graphs run
in the order of ``torch.compile``; the kernels and their costs are those of the model.
"""

from __future__ import annotations

from remat_planner.planner.partition.program import fastest_within
from remat_planner.tracer.fusion import FusedStep, least_seconds

_ROUNDING = 1e-9


def seconds_at_least(step: FusedStep, budget: int) -> float:
    """No partition whose peak is at most ``budget`` takes fewer seconds in the model; inf where none has such a peak."""
    return (least_seconds(step) + max(fastest_within(step, budget).bound, 0.0)) * (1.0 - _ROUNDING)
