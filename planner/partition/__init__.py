"""Compiling a model by ``torch.compile`` within a number of bytes, by a partitioner of its joint graph.

``compile`` measures a step and keeps to the budget as measured; ``budgeted_backend`` is the backend by itself.
"""

from remat_planner.planner.partition.backend import BudgetedBackend, budgeted_backend
from remat_planner.planner.partition.compile import CompiledStep, compile, compiled_step  # noqa: A004
from remat_planner.planner.partition.part import CompiledPart

__all__ = ["BudgetedBackend", "CompiledPart", "CompiledStep", "budgeted_backend", "compile", "compiled_step"]
