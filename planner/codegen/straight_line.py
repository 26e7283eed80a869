"""From a schedule to straight-line code: for every execution, the instances that it reads.

Work that needs no kernel disappears here. Tuples are unpacked at once, so that a tuple keeps none of its elements alive. A view
that equals an existing one (``t(t(x))``, ``detach(x)``, the same ``view`` twice) becomes that instance. The lifetimes of
storages stay, because a read of a view is a read of its storage.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx

from remat_planner.planner.codegen.eager_order import EagerOrder
from remat_planner.planner.codegen.executions import Execution, StraightLine
from remat_planner.planner.codegen.instance_table import InstanceTable
from remat_planner.planner.codegen.transfers import Transfers
from remat_planner.planner.torch_private import is_view_operator
from remat_planner.schedules import Graph, InvalidScheduleError, StaleScheduleError, Transfer
from remat_planner.tracer.joint import Joint


def straight_line(joint: Joint, graph: Graph, steps: Sequence[int]) -> StraightLine:
    """Resolve every execution in ``steps`` (indices into ``graph.actions``; the ops are nodes of ``joint``).

    Raises:
        StaleScheduleError: the joint graph has no node for an op of ``graph``.
        InvalidScheduleError: the steps cannot run, or would not give eager's bits.
    """
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
        self.repetitions = [0] * len(graph.actions)
        for step in steps:
            self.repetitions[step] += 1
        self.table = InstanceTable()
        self.executions: list[Execution] = []
        self.order = EagerOrder(graph, self.table.all)
        self.generator_states: dict[fx.Node, int] = {}
        self.transfers = Transfers(graph, steps, self.nodes, self.table, self.executions)

    def build(self) -> StraightLine:
        joint = self.joint
        arguments = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
        sources = {node: self.table.bind(node, self.table.new("source", node)) for node in arguments}
        for node in joint.graph.graph.nodes:
            if node.op == "get_attr":
                self.table.bind(node, self.table.new("constant", node))
        forward_end: int | None = None
        for step, index in enumerate(self.steps):
            self.transfers.wait_for_loads(step)
            op = self.graph.actions[index]
            if isinstance(op, Transfer):
                self.transfers.run(step, op)
            elif op.outside:
                forward_end = len(self.executions)
                for node in joint.tangent_nodes:
                    self.table.bind(node, self.table.new("tangent", node))
                outputs = [None if leaf.node is None else self._first(leaf.node, "output") for leaf in joint.outputs]
            else:
                self._execute(step, index, self.nodes[op.name])
        if forward_end is None:
            raise InvalidScheduleError(
                "the schedule has no loss: nothing separates forward from backward", step=None, op="loss"
            )
        gradients = [None if g.node is None else self._first(g.node, "gradient") for g in joint.gradients]
        return StraightLine(self.table.all, self.executions, forward_end, outputs, gradients, sources, self.transfers.pools)

    def _first(self, node: fx.Node, role: str) -> int:
        if node not in self.table.first:
            name = node.meta.get("name", node.name)
            raise InvalidScheduleError(f"{name!r}, an {role} of the step, is not computed in time", step=None, op=name)
        return self.table.first[node]

    def _execute(self, step: int, index: int, node: fx.Node) -> None:
        if node.op == "get_attr":
            return  # a constant of the captured graph, bound once for all
        if node.target is operator.getitem and (tuple_node := node.args[0]) in self.op_nodes:
            assert isinstance(tuple_node, fx.Node)
            position = node.args[1]
            assert isinstance(position, int)
            self.table.bind(node, self._newest(step, node, tuple_node, position))
            return
        recomputed = node in self.table.first or node in self.generator_states
        if not recomputed:
            self.order.check_first_execution(step, index, node)
        reads = {argument: self._newest(step, node, argument) for argument in node.all_input_nodes}
        omitted = tuple(node.meta.get("once") or ()) if recomputed else ()
        self.order.check_reads(step, index, node, reads, omitted)
        if is_view_operator(node.target) and isinstance(node.meta.get("val"), torch.Tensor):
            equal_view = self.table.equal_view(node, reads)
            if equal_view is not None:
                self.table.bind(node, equal_view)
                return
        in_place = node.target is torch.ops.aten.add.Tensor and not self.graph.allocated[index]
        execution = Execution(node, step, result=-1, reads=reads, omitted=omitted, in_place=in_place)
        producer = len(self.executions)
        if node.meta.get("random") and self.repetitions[index] > 1:
            if recomputed:
                execution.replayed_state = self.generator_states[node]
            else:
                state = self.table.new("generator state", node, producer=producer)
                execution.saved_state = self.generator_states[node] = state
        execution.result = self.table.new("result", node, reads, producer=producer)
        self.table.bind(node, execution.result)
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
            element = self.table.newest_of(node, position)
            if element not in execution.elements:
                element = self.table.new("element", user, execution.reads, producer=len(self.executions), element=position)
                self.table.bind_element(node, position, element)
                execution.elements.append(element)
            assert element is not None
            if user not in self.op_nodes:
                self.table.bind(user, element)

    def _newest(self, step: int, reader: fx.Node, node: fx.Node, position: int | None = None) -> int:
        """The newest instance of ``node``, or of one element of the tuple that it returns."""
        instance = self.table.newest_of(node, position)
        if instance is None:
            name = reader.meta["name"]
            raise InvalidScheduleError(
                f"step {step} runs {name!r}, which reads {node.meta.get('name', node.name)!r}: not computed by then",
                step=step,
                op=name,
            )
        return instance
