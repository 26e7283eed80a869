"""Python state that a forward reads and writes: attributes of modules and of objects in them, containers, arguments, globals,
variables around functions.

A captured step runs none of the forward's Python code. ``Watch`` compares, before each planned call, what that code reads.
``Snapshot`` shows, around a recording, what it changes.
"""

from remat_planner.tracer.python_state.attributes import Attributes, Environment, Function, Namespace
from remat_planner.tracer.python_state.containers import Array, Memory, RandomGenerator, Sequence, SetOfItems, TextInMemory
from remat_planner.tracer.python_state.executed_code import ExecutedCode, is_users_file, is_users_module, unobserved
from remat_planner.tracer.python_state.holders import ABSENT, Holder, is_plain, same
from remat_planner.tracer.python_state.places import Place, Roots
from remat_planner.tracer.python_state.same_function import same_function
from remat_planner.tracer.python_state.snapshot import Change, Snapshot
from remat_planner.tracer.python_state.starts import argument_starts, starts_of
from remat_planner.tracer.python_state.tensor_places import tensor_places
from remat_planner.tracer.python_state.walk import walk
from remat_planner.tracer.python_state.watch import PythonReads, Watch, described_value

__all__ = [
    "ABSENT",
    "Array",
    "Attributes",
    "Change",
    "Environment",
    "ExecutedCode",
    "Function",
    "Holder",
    "Memory",
    "Namespace",
    "Place",
    "PythonReads",
    "RandomGenerator",
    "Roots",
    "Sequence",
    "SetOfItems",
    "Snapshot",
    "TextInMemory",
    "Watch",
    "argument_starts",
    "described_value",
    "is_plain",
    "is_users_file",
    "is_users_module",
    "same",
    "same_function",
    "starts_of",
    "tensor_places",
    "unobserved",
    "walk",
]
