"""The joint graph of a captured training step, and what every stage asks about its nodes, operators and tensors."""

from remat_planner.tracer.joint.argument_parts import Parts, arguments_apart
from remat_planner.tracer.joint.arguments_tree import flatten_tree, is_size
from remat_planner.tracer.joint.captured_loss import CapturedLoss, StorageLifetime
from remat_planner.tracer.joint.effects import EXTEND, REPLACE, Effect, Effects
from remat_planner.tracer.joint.gradient_flow import GradientFlow, InPlaceOfMissing, Meeting, Tangents
from remat_planner.tracer.joint.graph import EagerOperator, Gradient, Hook, Joint, OutputLeaf
from remat_planner.tracer.joint.guards import ChainCall, Guard, GuardGroup, Guards, Leaf, Place, on_real_tensors
from remat_planner.tracer.joint.input_reader import InputReader
from remat_planner.tracer.joint.input_tree import InputTree, can_be_input, flatten_inputs, has_parts, tensor_inputs
from remat_planner.tracer.joint.layout import dense_strides, is_dense
from remat_planner.tracer.joint.module_state import BufferSlot, ModuleState, PlaceSlot, StateSlot, state_of
from remat_planner.tracer.joint.nodes import operator_name, tensors_of
from remat_planner.tracer.joint.output_tree import (
    TreeOfLeaves,
    flatten,
    has_symbol_inside,
    holds_inside,
    map_tensors,
    tensors_inside,
)
from remat_planner.tracer.joint.plain_tensors import computes_as_plain, is_of_pytorch, plain
from remat_planner.tracer.joint.recorded_forward import LeftBehind, RecordedForward, RecordedOperator, Result
from remat_planner.tracer.joint.rewritten import rewritten, with_nodes_changed
from remat_planner.tracer.joint.same_tensors import first_places
from remat_planner.tracer.joint.sizes import SizeNumber, SizeQuotient, is_from_sizes, number_from_sizes
from remat_planner.tracer.joint.undo import Undo

__all__ = [
    "EXTEND",
    "REPLACE",
    "BufferSlot",
    "CapturedLoss",
    "ChainCall",
    "EagerOperator",
    "Effect",
    "Effects",
    "Gradient",
    "GradientFlow",
    "Guard",
    "GuardGroup",
    "Guards",
    "Hook",
    "InPlaceOfMissing",
    "InputReader",
    "InputTree",
    "Joint",
    "Leaf",
    "LeftBehind",
    "Meeting",
    "ModuleState",
    "OutputLeaf",
    "Parts",
    "Place",
    "PlaceSlot",
    "RecordedForward",
    "RecordedOperator",
    "Result",
    "SizeNumber",
    "SizeQuotient",
    "StateSlot",
    "StorageLifetime",
    "Tangents",
    "TreeOfLeaves",
    "Undo",
    "arguments_apart",
    "can_be_input",
    "computes_as_plain",
    "dense_strides",
    "first_places",
    "flatten",
    "flatten_inputs",
    "flatten_tree",
    "has_parts",
    "has_symbol_inside",
    "holds_inside",
    "is_dense",
    "is_from_sizes",
    "is_of_pytorch",
    "is_size",
    "map_tensors",
    "number_from_sizes",
    "on_real_tensors",
    "operator_name",
    "plain",
    "rewritten",
    "state_of",
    "tensor_inputs",
    "tensors_inside",
    "tensors_of",
    "with_nodes_changed",
]
