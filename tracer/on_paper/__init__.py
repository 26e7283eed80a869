"""Capturing for a GPU on a machine without one, on fake tensors of the CPU.

``as_on_gpu`` makes operators behave as on the GPU, ``PlacedOnCpu`` puts tensors that the code places on "cuda" on the CPU.
"""

from remat_planner.tracer.on_paper.absent_gpu import PlacedOnCpu, as_on_gpu

__all__ = [
    "PlacedOnCpu",
    "as_on_gpu",
]
