"""Python state that a forward reads and writes: attributes of modules and of objects in them, containers, arguments, globals,
variables around functions.

A captured step runs none of the forward's Python code. ``Watch`` compares, before each planned call, what that code reads.
``Snapshot`` shows, around a recording, what it changes.
"""

from remat_planner.tracer.python_state.attributes import Attributes, Environment, Function, Namespace, attributes_at, slots_of
from remat_planner.tracer.python_state.cached_function import CachedFunction
from remat_planner.tracer.python_state.containers import (
    Array,
    ContextVariable,
    Memory,
    RandomGenerator,
    Sequence,
    SetOfItems,
    TextInMemory,
)
from remat_planner.tracer.python_state.executed_code import (
    ExecutedCode,
    caller_of,
    is_users_file,
    is_users_module,
    observation_suspended,
    sizes_seen_as_numbers,
    unobserved,
)
from remat_planner.tracer.python_state.growing_list import GrowingList
from remat_planner.tracer.python_state.holders import ABSENT, Holder, is_plain, plain_form, same
from remat_planner.tracer.python_state.hooks_on_modules import HOOK_REGISTRIES, hook_function, hooks_on_modules
from remat_planner.tracer.python_state.object_content import ObjectContent
from remat_planner.tracer.python_state.object_tensors import ObjectTensors, may_hold_tensors, tensors_of_object
from remat_planner.tracer.python_state.places import Place, Roots, Step, tensor_label
from remat_planner.tracer.python_state.same_function import same_function
from remat_planner.tracer.python_state.snapshot import Change, Snapshot
from remat_planner.tracer.python_state.starts import argument_starts, objects_in_arguments, starts_of
from remat_planner.tracer.python_state.tensor_places import tensor_places
from remat_planner.tracer.python_state.unknown_numbers import (
    CountedNumber,
    ReadNumber,
    is_read_number,
)
from remat_planner.tracer.python_state.walk import walk
from remat_planner.tracer.python_state.watch import PythonReads, Watch, changed_in_value, described_value

__all__ = [
    "ABSENT",
    "HOOK_REGISTRIES",
    "Array",
    "Attributes",
    "CachedFunction",
    "Change",
    "ContextVariable",
    "CountedNumber",
    "Environment",
    "ExecutedCode",
    "Function",
    "GrowingList",
    "Holder",
    "Memory",
    "Namespace",
    "ObjectContent",
    "ObjectTensors",
    "Place",
    "PythonReads",
    "RandomGenerator",
    "ReadNumber",
    "Roots",
    "Sequence",
    "SetOfItems",
    "Snapshot",
    "Step",
    "TextInMemory",
    "Watch",
    "argument_starts",
    "attributes_at",
    "caller_of",
    "changed_in_value",
    "described_value",
    "hook_function",
    "hooks_on_modules",
    "is_plain",
    "is_read_number",
    "is_users_file",
    "is_users_module",
    "may_hold_tensors",
    "objects_in_arguments",
    "observation_suspended",
    "plain_form",
    "same",
    "same_function",
    "sizes_seen_as_numbers",
    "slots_of",
    "starts_of",
    "tensor_label",
    "tensor_places",
    "tensors_of_object",
    "unobserved",
    "walk",
]
