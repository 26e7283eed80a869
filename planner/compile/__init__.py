"""Compiling what a schedule runs, without undoing its recomputation.

``compiled_program`` compiles the program of an applied schedule. ``ScheduleBackend`` is for ``torch.compile`` instead: it saves
for the backward what the schedule retains.
"""

from remat_planner.planner.compile.compiled_program import CompiledParts, compiled_program
from remat_planner.planner.compile.compilers import check_compiler, compiler_named
from remat_planner.planner.compile.torch_compile_backend import SavedSet, ScheduleBackend

__all__ = [
    "CompiledParts",
    "SavedSet",
    "ScheduleBackend",
    "check_compiler",
    "compiled_program",
    "compiler_named",
]
