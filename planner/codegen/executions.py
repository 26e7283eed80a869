"""A schedule as straight-line code: every execution of an op, and which earlier execution each of its inputs comes from.

Each execution makes *instances*; a read binds to the newest instance of the value, which is the simulator's rule. Here too
the work that needs no kernel falls away: tuple elements are unpacked at once (so that the tuple keeps nothing alive), and a
view that another instance already has (``t(t(x))``, ``detach(x)``, the same ``view`` again) becomes that instance. Neither
changes which storages live, since a view reads the storage that it is a view of.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from remat_planner.planner.torch_private import is_view_operator, writes_to_argument
from remat_planner.schedules import Graph, InvalidScheduleError, StaleScheduleError
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.torch_private import storage_key

Origin = Literal["source", "tangent", "constant", "call", "element", "generator state"]


@dataclass(slots=True)
class Instance:
    """A tensor (or a tuple of them, or a generator's state) that exists at run time.

    Attributes:
        origin: what makes it; a source is a parameter, buffer or input, a constant an attribute of the captured graph.
        node: the joint graph's node that it is a value of.
        family: number shared by the instances on one storage.
        made: index of the ``Call`` that makes it, -1 for what is there before.
        element: its position in the tuple, for an element.
    """

    origin: Origin
    node: fx.Node
    family: int
    made: int = -1
    element: int = 0


@dataclass(slots=True)
class Call:
    """One execution of ``node``.

    Attributes:
        step: its place in the schedule.
        result: instance that it makes.
        reads: instance behind each node among its arguments.
        elements: instances of the tuple's elements that are used.
        omitted: argument positions passed as None: running statistics that an earlier execution has updated.
        keeps: instance of the generator state to keep before a draw that is repeated later.
        replays: instance of the generator state to repeat the draw from.
    """

    node: fx.Node
    step: int
    result: int
    reads: dict[fx.Node, int]
    elements: list[int] = field(default_factory=list)
    omitted: tuple[int, ...] = ()
    keeps: int | None = None
    replays: int | None = None


@dataclass
class StraightLine:
    """The executions of a schedule in order; ``calls[:forward_end]`` come before the caller's loss.

    ``outputs`` and ``gradients`` have the instance of each output leaf and each gradient, None where there is no node.
    """

    instances: list[Instance]
    calls: list[Call]
    forward_end: int
    outputs: list[int | None]
    gradients: list[int | None]
    sources: dict[fx.Node, int]


def straight_line(joint: Joint, graph: Graph, steps: Sequence[int]) -> StraightLine:
    """Resolve every execution in ``steps`` (op indices of ``graph``, whose ops are nodes of ``joint``).

    Raises:
        StaleScheduleError: an op of the graph is no node of the joint graph.
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
        self.runs = [0] * len(graph.ops)
        for step in steps:
            self.runs[step] += 1
        self.instances: list[Instance] = []
        self.calls: list[Call] = []
        self.newest: dict[fx.Node, int] = {}
        self.first: dict[fx.Node, int] = {}
        self.elements: dict[tuple[fx.Node, int], int] = {}
        self.states: dict[fx.Node, int] = {}
        self.views: dict[tuple[Any, ...], int] = {}
        self.families = 0
        self.updates: dict[int, int] = {}  # family of a source -> the last op, by index, that has updated it
        self.last_stateful = -1

    def build(self) -> StraightLine:
        joint = self.joint
        given = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
        sources = {node: self._bind(node, self._new("source", node)) for node in given}
        for node in joint.graph.graph.nodes:
            if node.op == "get_attr":
                self._bind(node, self._new("constant", node))
        forward_end: int | None = None
        for step, index in enumerate(self.steps):
            op = self.graph.ops[index]
            if op.outside:
                forward_end = len(self.calls)
                for node in joint.tangent_nodes:
                    self._bind(node, self._new("tangent", node))
                outputs = [self._output(leaf.node) for leaf in joint.outputs]
            else:
                self._execute(step, index, self.nodes[op.name])
        if forward_end is None:
            raise InvalidScheduleError(
                "the schedule has no loss: nothing separates forward from backward", step=None, op="loss"
            )
        gradients = [None if g.node is None else self._first(g.node, "gradient") for g in joint.gradients]
        return StraightLine(self.instances, self.calls, forward_end, outputs, gradients, sources)

    def _output(self, node: fx.Node | None) -> int | None:
        return None if node is None else self._first(node, "output")

    def _first(self, node: fx.Node, what: str) -> int:
        if node not in self.first:
            name = node.meta.get("name", node.name)
            raise InvalidScheduleError(f"{name!r}, an {what} of the step, is not computed in time", step=None, op=name)
        return self.first[node]

    def _execute(self, step: int, index: int, node: fx.Node) -> None:
        if node.op == "get_attr":
            return  # a constant of the captured graph: there all the time
        if node.target is operator.getitem and (tuple_node := node.args[0]) in self.op_nodes:
            assert isinstance(tuple_node, fx.Node)
            self._bind(node, self._newest(step, node, (tuple_node, node.args[1])))
            return
        again = node in self.first or node in self.states
        self._check_order(step, index, node, again)
        reads = {argument: self._newest(step, node, argument) for argument in node.all_input_nodes}
        omitted = tuple(node.meta.get("once") or ()) if again else ()
        self._check_updates(step, index, node, reads, omitted)
        if is_view_operator(node.target) and isinstance(node.meta.get("val"), torch.Tensor):
            known = self.views.get(self._geometry(node, reads))
            if known is not None:
                self._bind(node, known)
                return
        call = Call(node, step, result=-1, reads=reads, omitted=omitted)
        if node.meta.get("random") and self.runs[index] > 1:
            if again:
                call.replays = self.states[node]
            else:
                call.keeps = self.states[node] = self._new("generator state", node, made=len(self.calls))
        call.result = self._new("call", node, reads, made=len(self.calls))
        self._bind(node, call.result)
        self._unpack(node, call)
        self.calls.append(call)
        for position, argument in enumerate(node.args):
            if isinstance(argument, fx.Node) and writes_to_argument(node, position):
                self.updates[self.instances[reads[argument]].family] = index

    def _unpack(self, node: fx.Node, call: Call) -> None:
        """Make an instance for each element of a tuple result that some node reads."""
        for user in node.users:
            if user.target is not operator.getitem:
                continue
            position = user.args[1]
            assert isinstance(position, int)
            key = (node, position)
            element = self.elements.get(key)
            if element not in call.elements:
                element = self._new("element", user, call.reads, made=len(self.calls), element=position)
                self.elements[key] = element
                call.elements.append(element)
            assert element is not None
            if user not in self.op_nodes:
                self._bind(user, element)

    def _newest(self, step: int, reader: fx.Node, what: Any) -> int:
        found = self.elements.get(what) if isinstance(what, tuple) else self.newest.get(what)
        if found is None:
            node = what[0] if isinstance(what, tuple) else what
            name = reader.meta["name"]
            raise InvalidScheduleError(
                f"step {step} runs {name!r}, which reads {node.meta.get('name', node.name)!r}: not computed by then",
                step=step,
                op=name,
            )
        return found

    def _new(
        self, origin: Origin, node: fx.Node, reads: dict[fx.Node, int] | None = None, *, made: int = -1, element: int = 0
    ) -> int:
        family = None
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and reads:
            key = storage_key(value)
            family = next((self.instances[i].family for a, i in reads.items() if key in _storage_keys(a)), None)
        if family is None:
            family = self.families
            self.families += 1
        self.instances.append(Instance(origin, node, family, made, element))
        new = len(self.instances) - 1
        if isinstance(value, torch.Tensor) and origin != "generator state":
            self.views.setdefault((family, *_layout(value)), new)
        return new

    def _bind(self, node: fx.Node, instance: int) -> int:
        self.newest[node] = instance
        self.first.setdefault(node, instance)
        return instance

    def _geometry(self, node: fx.Node, reads: dict[fx.Node, int]) -> tuple[Any, ...]:
        key = storage_key(node.meta["val"])
        base = next((i for argument, i in reads.items() if key in _storage_keys(argument)), None)
        return () if base is None else (self.instances[base].family, *_layout(node.meta["val"]))

    def _check_order(self, step: int, index: int, node: fx.Node, again: bool) -> None:
        """First executions that draw random numbers or change state must come in eager's order."""
        stateful = (
            node.meta.get("random")
            or node.meta.get("once")
            or any(writes_to_argument(node, position) for position in range(len(node.args)))
        )
        if not stateful or again:
            return
        if index < self.last_stateful:
            earlier = self.graph.ops[self.last_stateful].name
            raise InvalidScheduleError(
                f"step {step} runs {node.meta['name']!r} for the first time after {earlier!r}: ops that draw random numbers or "
                "update buffers must first run in the graph's order, or the bits differ",
                step=step,
                op=node.meta["name"],
            )
        self.last_stateful = index

    def _check_updates(self, step: int, index: int, node: fx.Node, reads: dict[fx.Node, int], omitted: tuple[int, ...]) -> None:
        """Nothing may read a buffer or input after an update that eager makes later: eager read the old content."""
        if not self.updates:
            return
        passed = {argument for position, argument in enumerate(node.args) if position not in omitted} | set(
            node.kwargs.values()
        )
        for argument, instance in reads.items():
            writer = self.updates.get(self.instances[instance].family, -1)
            if writer > index and argument in passed:
                raise InvalidScheduleError(
                    f"step {step} runs {node.meta['name']!r} after {self.graph.ops[writer].name!r} has updated what it reads; "
                    "eager reads it before",
                    step=step,
                    op=node.meta["name"],
                )


def _storage_keys(node: fx.Node) -> set[int]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {storage_key(v) for v in values if isinstance(v, torch.Tensor)}


def _layout(value: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, value.is_conj(), value.is_neg())
