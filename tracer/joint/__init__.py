"""The joint graph of a captured training step, and what every stage asks about its nodes, operators and tensors."""

from remat_planner.tracer.joint.captured_loss import CapturedLoss, StorageLifetime
from remat_planner.tracer.joint.effects import EXTEND, REPLACE, Effect, Effects
from remat_planner.tracer.joint.graph import EagerOperator, Gradient, Guard, HookKeys, Joint, OutputLeaf
from remat_planner.tracer.joint.layout import dense_strides, is_dense
from remat_planner.tracer.joint.module_state import ModuleState, StateSlot, state_of
from remat_planner.tracer.joint.nodes import operator_name, tensors_of
from remat_planner.tracer.joint.output_tree import TreeOfLeaves, flatten, tensors_inside

__all__ = [
    "EXTEND",
    "REPLACE",
    "CapturedLoss",
    "EagerOperator",
    "Effect",
    "Effects",
    "Gradient",
    "Guard",
    "HookKeys",
    "Joint",
    "ModuleState",
    "OutputLeaf",
    "StateSlot",
    "StorageLifetime",
    "TreeOfLeaves",
    "dense_strides",
    "flatten",
    "is_dense",
    "operator_name",
    "state_of",
    "tensors_inside",
    "tensors_of",
]
