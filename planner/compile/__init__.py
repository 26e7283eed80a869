"""Having the graphs of a program compiled, without its recomputation being undone."""

from remat_planner.planner.compile.compilers import check_compiler, compiler_named
from remat_planner.planner.compile.program import CompiledParts, compiled_program
from remat_planner.planner.compile.torch_compile_backend import SavedSet, ScheduleBackend

__all__ = [
    "CompiledParts",
    "SavedSet",
    "ScheduleBackend",
    "check_compiler",
    "compiled_program",
    "compiler_named",
]
