"""Compiling what a schedule runs, without undoing its recomputation."""

from remat_planner.planner.compile.compiled_program import CompiledParts, compiled_program
from remat_planner.planner.compile.compilers import check_compiler, compiler_named, refuse_copies

__all__ = [
    "CompiledParts",
    "check_compiler",
    "compiled_program",
    "compiler_named",
    "refuse_copies",
]
