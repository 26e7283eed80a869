"""TODO."""

from remat_planner.tracer.on_paper.absent_gpu import PlacedOnCpu, as_on_gpu

__all__ = [
    "PlacedOnCpu",
    "as_on_gpu",
]
