"""From a schedule to straight-line code: for every execution, the instances that it reads.

Work that needs no kernel disappears here. Tuples are unpacked at once, so that a tuple keeps none of its elements alive. A view
that equals an existing one (``t(t(x))``, ``detach(x)``, the same ``view`` twice) becomes that instance. The lifetimes of
storages stay, because a read of a view is a read of its storage.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.planner.codegen.eager_order import EagerOrder
from remat_planner.planner.codegen.executions import Execution, Instance, InstanceKind, StraightLine
from remat_planner.planner.torch_private import is_view_operator
from remat_planner.schedules import Graph, InvalidScheduleError, StaleScheduleError
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.torch_private import storage_key


def straight_line(joint: Joint, graph: Graph, steps: Sequence[int]) -> StraightLine:
    """Resolve every execution in ``steps`` (op indices of ``graph``, whose ops are nodes of ``joint``).

    Raises:
        StaleScheduleError: the joint graph has no node for an op of ``graph``.
        InvalidScheduleError: the steps cannot run, or would not give eager's bits.
    """
    for step, i in enumerate(steps):
        if i >= len(graph.ops):
            name = graph.actions[i].name
            raise InvalidScheduleError(
                f"step {step} runs {name!r}: a model cannot run copies to a pool, plan without them", step=step, op=name
            )
    return _Builder(joint, graph, steps).build()


class _Builder:
    def __init__(self, joint: Joint, graph: Graph, steps: Sequence[int]) -> None:
        self.joint = joint
        self.graph = graph
        self.steps = steps
        self.nodes = {node.meta["name"]: node for node in joint.ops}
        unknown = [op.name for op in graph.ops if not op.outside and op.name not in self.nodes]
        if unknown:
            raise StaleScheduleError(
                f"the schedule runs {len(unknown)} ops that the captured step does not have, the first {unknown[0]!r}: "
                "plan again",
                differences=tuple(f"op {name!r} planned, not found" for name in unknown[:8]),
            )
        self.op_nodes = set(joint.ops)
        self.repetitions = [0] * len(graph.ops)
        for step in steps:
            self.repetitions[step] += 1
        self.instances: list[Instance] = []
        self.executions: list[Execution] = []
        self.order = EagerOrder(graph, self.instances)
        self.newest: dict[fx.Node, int] = {}
        self.first: dict[fx.Node, int] = {}
        self.elements: dict[tuple[fx.Node, int], int] = {}
        self.generator_states: dict[fx.Node, int] = {}
        self.views: dict[tuple[Any, ...], int] = {}
        self.families = 0

    def build(self) -> StraightLine:
        joint = self.joint
        arguments = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
        sources = {node: self._bind(node, self._new("source", node)) for node in arguments}
        for node in joint.graph.graph.nodes:
            if node.op == "get_attr":
                self._bind(node, self._new("constant", node))
        forward_end: int | None = None
        for step, index in enumerate(self.steps):
            op = self.graph.ops[index]
            if op.outside:
                forward_end = len(self.executions)
                for node in joint.tangent_nodes:
                    self._bind(node, self._new("tangent", node))
                outputs = [None if leaf.node is None else self._first(leaf.node, "output") for leaf in joint.outputs]
            else:
                self._execute(step, index, self.nodes[op.name])
        if forward_end is None:
            raise InvalidScheduleError(
                "the schedule has no loss: nothing separates forward from backward", step=None, op="loss"
            )
        gradients = [None if g.node is None else self._first(g.node, "gradient") for g in joint.gradients]
        return StraightLine(self.instances, self.executions, forward_end, outputs, gradients, sources)

    def _first(self, node: fx.Node, role: str) -> int:
        if node not in self.first:
            name = node.meta.get("name", node.name)
            raise InvalidScheduleError(f"{name!r}, an {role} of the step, is not computed in time", step=None, op=name)
        return self.first[node]

    def _execute(self, step: int, index: int, node: fx.Node) -> None:
        if node.op == "get_attr":
            return  # a constant of the captured graph, bound once for all
        if node.target is operator.getitem and (tuple_node := node.args[0]) in self.op_nodes:
            assert isinstance(tuple_node, fx.Node)
            position = node.args[1]
            assert isinstance(position, int)
            self._bind(node, self._newest(step, node, tuple_node, position))
            return
        recomputed = node in self.first or node in self.generator_states
        if not recomputed:
            self.order.check_first_execution(step, index, node)
        reads = {argument: self._newest(step, node, argument) for argument in node.all_input_nodes}
        omitted = tuple(node.meta.get("once") or ()) if recomputed else ()
        self.order.check_reads(step, index, node, reads, omitted)
        if is_view_operator(node.target) and isinstance(node.meta.get("val"), torch.Tensor):
            equal_view = self.views.get(self._geometry(node, reads))
            if equal_view is not None:
                self._bind(node, equal_view)
                return
        in_place = node.target is torch.ops.aten.add.Tensor and not self.graph.allocated[index]
        execution = Execution(node, step, result=-1, reads=reads, omitted=omitted, in_place=in_place)
        producer = len(self.executions)
        if node.meta.get("random") and self.repetitions[index] > 1:
            if recomputed:
                execution.replayed_state = self.generator_states[node]
            else:
                state = self._new("generator state", node, producer=producer)
                execution.saved_state = self.generator_states[node] = state
        execution.result = self._new("result", node, reads, producer=producer)
        self._bind(node, execution.result)
        self._unpack(node, execution)
        self.executions.append(execution)
        self.order.record_updates(index, node, reads)

    def _unpack(self, node: fx.Node, execution: Execution) -> None:
        """Create an instance for each element of a tuple result that some node reads."""
        for user in node.users:
            if user.target is not operator.getitem:
                continue
            position = user.args[1]
            assert isinstance(position, int)
            element = self.elements.get((node, position))
            if element not in execution.elements:
                element = self._new("element", user, execution.reads, producer=len(self.executions), element=position)
                self.elements[node, position] = element
                execution.elements.append(element)
            assert element is not None
            if user not in self.op_nodes:
                self._bind(user, element)

    def _newest(self, step: int, reader: fx.Node, node: fx.Node, position: int | None = None) -> int:
        """The newest instance of ``node``, or of one element of the tuple that it returns."""
        instance = self.newest.get(node) if position is None else self.elements.get((node, position))
        if instance is None:
            name = reader.meta["name"]
            raise InvalidScheduleError(
                f"step {step} runs {name!r}, which reads {node.meta.get('name', node.name)!r}: not computed by then",
                step=step,
                op=name,
            )
        return instance

    def _new(
        self,
        kind: InstanceKind,
        node: fx.Node,
        reads: dict[fx.Node, int] | None = None,
        *,
        producer: int = -1,
        element: int = 0,
    ) -> int:
        """Add an instance; it joins the family of an argument whose storage it has."""
        family = None
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and reads:
            key = storage_key(value)
            family = next((self.instances[i].family for a, i in reads.items() if key in _storage_keys(a)), None)
        if family is None:
            family = self.families
            self.families += 1
        self.instances.append(Instance(kind, node, family, producer, element))
        new = len(self.instances) - 1
        if isinstance(value, torch.Tensor) and kind != "generator state":
            self.views.setdefault((family, *_strides(value)), new)
        return new

    def _bind(self, node: fx.Node, instance: int) -> int:
        self.newest[node] = instance
        self.first.setdefault(node, instance)
        return instance

    def _geometry(self, node: fx.Node, reads: dict[fx.Node, int]) -> tuple[Any, ...]:
        """What two equal views have in common: the family and the strided form. Empty where no argument shares the storage."""
        key = storage_key(node.meta["val"])
        base = next((i for argument, i in reads.items() if key in _storage_keys(argument)), None)
        return () if base is None else (self.instances[base].family, *_strides(node.meta["val"]))


def _storage_keys(node: fx.Node) -> set[int]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {storage_key(v) for v in values if isinstance(v, torch.Tensor)}


def _strides(value: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, value.is_conj(), value.is_neg())
