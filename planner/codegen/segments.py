"""A schedule as torch.fx graphs: one for the forward and one for each piece of the backward.

The backward is cut into segments so that each parameter's gradient leaves as soon as it is final, part by part where it is a
sum. What one segment makes and a later one needs goes through a *store*, a plain list owned by the run: a segment takes out
what no later one reads, so everything dies at its last use, as in the simulator. A graph takes one list, empties it, and the
code that torch.fx generates drops each value after its last use.

A node that holds tensors has them as fakes in ``meta["val"]``. One that runs an operator has that in ``meta["operator"]``,
whatever it calls it by, the captured node in ``meta["captured"]``, and in ``meta["again"]`` whether that has run before.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen.executions import Call, Instance, StraightLine, straight_line
from remat_planner.planner.codegen.gradient_parts import Parts, parts_of_gradients
from remat_planner.planner.codegen.op_bindings import Binder, Binding
from remat_planner.planner.codegen.program import Program, Segment
from remat_planner.planner.codegen.rng_replay import generator_state, repeating
from remat_planner.planner.distributed import others_wait
from remat_planner.planner.training_state import added_gradients
from remat_planner.schedules import Graph, simulate
from remat_planner.tracer.joint import Joint

# A cut costs some 30 microseconds at run time: one is made where the work since the last one took a hundred times that, or
# has so many ops that it is lost among them. A gradient that the plan does not keep, since it is added to one that is there, is
# handed over at once whatever that costs: its bytes are not planned for any longer.
_SECONDS_BETWEEN_CUTS = 3e-3
_CALLS_BETWEEN_CUTS = 400
_AT_ONCE = 2
"""Generated code: takes a list of values, which it empties; returns (what leaves, what goes into the store)."""


def emit(joint: Joint, graph: Graph, steps: Sequence[int]) -> Program:
    """Turn ``steps`` (op indices of ``graph``, which was lowered from ``joint``) into a program.

    Raises:
        schedules.StaleScheduleError: an op of the graph is no node of the joint graph.
        schedules.InvalidScheduleError: the steps cannot run, or would not give eager's bits.
    """
    return _Emitter(joint, graph, straight_line(joint, graph, steps), simulate(graph, steps).bytes).emit()


class _Emitter:
    def __init__(self, joint: Joint, graph: Graph, line: StraightLine, live: npt.NDArray[np.int64]) -> None:
        self.joint = joint
        self.graph = graph
        self.line = line
        self.spare = live.max(initial=0) - live
        self.binder = Binder()
        self.executed: set[fx.Node] = set()
        places = {k: place for place, k in enumerate(joint.arrivals)}
        self.order = [places.get(k, len(places)) for k in range(len(line.gradients))]
        self.parts = parts_of_gradients(joint, line)
        handed_over = self._in_eagers_order() if others_wait() else []
        self.sums = {call for parts in self.parts for call in parts.sums}
        self.bounds = [bounds for bounds, _ in handed_over] if handed_over else self._bounds()
        self.segment_of_call = [s for s, (start, end) in enumerate(self.bounds) for _ in range(start, end)]
        self.leaving = self._leaving([gradients for _, gradients in handed_over])
        self.passed_on = self._passed_on()
        self.used_in = self._used_in()
        self.places = self._places()

    def emit(self) -> Program:
        line, joint = self.line, self.joint
        last = len(self.bounds) - 1
        given = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
        leaving = list(dict.fromkeys(i for i in self.passed_on if i is not None))
        forward, writes = self._graph(0, [line.sources[node] for node in given], leaving)
        segments = []
        for s in range(1, last + 1):
            read = [i for i in self.places if self._made_in(i) < s and s in self.used_in[i]]
            module, written = self._graph(s, read, [instance for _, instance in self.leaving[s]])
            segments.append(
                Segment(
                    module=module,
                    run=module.forward,
                    reads=tuple(self.places[i] for i in read),
                    clears=tuple(self.places[i] for i in read if max(self.used_in[i]) == s),
                    writes=written,
                    gradients=tuple(k for k, _ in self.leaving[s]),
                )
            )
        tangents = {line.instances[i].node: p for i, p in self.places.items() if line.instances[i].origin == "tangent"}
        return Program(
            forward=forward,
            run_forward=forward.forward,
            writes=writes,
            store_size=len(self.places),
            tangents=tuple(tangents.get(node) for node in joint.tangent_nodes),
            outputs=tuple(None if i is None else leaving.index(i) for i in self.passed_on),
            segments=tuple(segments),
            unchanged=self._unchanged(),
        )

    # ---------------------------------------------------------------- where things are made, used and kept

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last-plus-one call of the forward and of each segment of the backward."""
        line = self.line
        seconds = {op.name: op.seconds for op in self.graph.ops}
        final = {parts.made[-1] for parts in self.parts if parts.made}
        added = {self.parts[k].made[-1] for k in added_gradients(self.graph, self.joint) if self.parts[k].made}
        arriving = self._arriving()
        bounds = [(0, line.forward_end)]
        start, time, waiting, largest = line.forward_end, 0.0, 0, 0
        for position in range(line.forward_end, len(line.calls)):
            if waiting and waiting + largest > self.spare[line.calls[position].step]:
                bounds.append((start, position))
                start, time, waiting, largest = position, 0.0, 0, 0
            time += seconds.get(line.calls[position].node.meta["name"], 0.0)
            for part, addition in arriving[position]:
                waiting, largest = waiting + part, max(largest, addition)
            enough = time >= _SECONDS_BETWEEN_CUTS or position + 1 - start >= _CALLS_BETWEEN_CUTS
            if position in added or (enough and (position in final or arriving[position])):
                bounds.append((start, position + 1))
                start, time, waiting, largest = position + 1, 0.0, 0, 0
        if start < len(line.calls) or len(bounds) == 1:
            bounds.append((start, len(line.calls)))
        if not any(bounds[-1][0] <= position < bounds[-1][1] for position in final) and len(bounds) > 2:
            bounds[-2:] = [(bounds[-2][0], bounds[-1][1])]  # nothing would call a last segment without a gradient
        return bounds

    def _arriving(self) -> dict[int, list[tuple[int, int]]]:
        """By call, the bytes of each part of a gradient that the plan adds to others there, and of the sum that it makes.

        Handed over later, the part is there for longer, and the sum is made then: neither must raise the peak.
        """
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for parts in self.parts:
            for instance, call in zip(parts.instances[1:], parts.made[1:], strict=True):
                found[call].append((self._bytes(instance), self._bytes(self.line.calls[call].result)))
        return found

    def _bytes(self, instance: int) -> int:
        graph = self.graph
        op = graph.by_name.get(self.line.instances[instance].node.meta.get("name", ""))
        return 0 if op is None else graph.storages[graph.values[graph.ops[op].writes[0]].storage].bytes

    def _in_eagers_order(self) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
        """Bounds as ``_bounds``, each with the gradients that are handed over at its end: eager's order, at most two at a time.

        DDP lays out its buckets in the order in which the gradients of its first step arrive, and with more than two ranks the
        sums have other bits in another layout. More than two that come at once autograd would take in an order of its own.
        The plan keeps each for as long as it waits for its turn, also those that are added to others or copied into buckets.
        """
        line = self.line
        ready: dict[int, list[int]] = defaultdict(list)
        latest = line.forward_end
        for k in sorted(range(len(line.gradients)), key=self.order.__getitem__):
            parts = self.parts[k]
            if parts.sums and parts.made[-1] < latest:  # it waits in one piece, as the plan keeps it
                parts = self.parts[k] = Parts.whole(line.gradients[k], line)
            if parts.made and parts.made[-1] >= line.forward_end:
                latest = max(latest, parts.made[-1])
                ready[latest].append(k)
        if not ready:
            return []
        found: list[tuple[tuple[int, int], tuple[int, ...]]] = [((0, line.forward_end), ())]
        start = line.forward_end
        early = {made for parts in self.parts for made in parts.made[:-1] if made >= line.forward_end}
        for position in sorted(early | ready.keys()):
            gradients = ready.get(position, [])
            for k in range(0, max(len(gradients), 1), _AT_ONCE):
                found.append(((start, position + 1), tuple(gradients[k : k + _AT_ONCE])))
                start = position + 1
        (begin, _), gradients_of_last = found[-1]
        found[-1] = ((begin, len(line.calls)), gradients_of_last)
        return found

    def _leaving(self, in_turn: Sequence[tuple[int, ...]]) -> list[list[tuple[int, int]]]:
        """For each segment what leaves at its end, as (gradient, instance). ``in_turn`` has the gradients of each segment whose
        last part has to wait for its turn.
        """
        turn = {k: s for s, gradients in enumerate(in_turn) for k in gradients}
        found: list[list[tuple[int, int]]] = [[] for _ in self.bounds]
        for k in sorted(range(len(self.parts)), key=self.order.__getitem__):
            parts = self.parts[k]
            for number, (instance, made) in enumerate(zip(parts.instances, parts.made, strict=True), 1):
                segment = max(self.segment_of_call[made] if made >= 0 else 0, 1)
                found[turn.get(k, segment) if number == len(parts.made) else segment].append((k, instance))
        return found

    def _made_in(self, instance: int) -> int:
        made = self.line.instances[instance]
        return self.segment_of_call[made.made] if made.made >= 0 else 0

    def _passed_on(self) -> list[int | None]:
        """For each output leaf the instance that the forward returns; None where the caller gets back its own tensor or a
        constant.
        """
        joint = self.joint
        inputs = set(joint.input_nodes)
        with_tangent = set(joint.tangent_outputs)
        return [
            None if leaf.node in inputs and k not in with_tangent else instance
            for k, (leaf, instance) in enumerate(zip(joint.outputs, self.line.outputs, strict=True))
        ]

    def _used_in(self) -> dict[int, set[int]]:
        used: dict[int, set[int]] = defaultdict(set)
        for position, call in enumerate(self.line.calls):
            if position in self.sums:
                continue
            s = self.segment_of_call[position]
            for argument, instance in call.reads.items():
                if argument in _passed_arguments(call):
                    used[instance].add(s)
            if call.replays is not None:
                used[call.replays].add(s)
        for s, leaving in enumerate(self.leaving):
            for _, instance in leaving:
                used[instance].add(s)
        return used

    def _places(self) -> dict[int, int]:
        """A place in the store for each instance that a later segment reads."""
        crossing = [
            i
            for i, instance in enumerate(self.line.instances)
            if instance.origin != "constant"
            and self.used_in[i]
            and (max(self.used_in[i]) > self._made_in(i) or instance.origin == "tangent")
        ]
        return {instance: place for place, instance in enumerate(crossing)}

    def _unchanged(self) -> tuple[tuple[int, fx.Node | int], ...]:
        """What the backward reads of the caller's tensors: parameters, buffers, inputs, and outputs that share a kept
        storage.
        """
        instances = self.line.instances
        behind: dict[int, fx.Node | int] = {instances[i].family: node for node, i in self.line.sources.items()}
        for leaf, output in enumerate(self.passed_on):
            if output is not None:
                behind.setdefault(instances[output].family, leaf)
        return tuple(
            (place, behind[instances[i].family])
            for i, place in self.places.items()
            if self._made_in(i) == 0 and instances[i].origin != "tangent" and instances[i].family in behind
        )

    # ---------------------------------------------------------------- graphs

    def _graph(self, s: int, given: list[int], leaving: list[int]) -> tuple[fx.GraphModule, tuple[int, ...]]:
        """The graph of segment ``s``: one list in, (what ``leaving`` names, what goes into the store) out."""
        graph = fx.Graph()
        box = graph.placeholder("box")
        values: dict[int, fx.Node] = {}
        for position, instance in enumerate(given):
            values[instance] = graph.create_node(
                "call_function", operator.getitem, (box, position), name=self.line.instances[instance].node.name
            )
            values[instance].meta["val"] = self.line.instances[instance].node.meta.get("val")
        graph.call_method("clear", (box,))
        for position in range(*self.bounds[s]):
            if position not in self.sums:
                self._call(graph, values, self.line.calls[position], s)
        stored = [
            i for i in self.places if i in values and self._made_in(i) == s and self.line.instances[i].origin != "tangent"
        ]
        results = [self._value(graph, values, i) for i in leaving]
        for k, (instance, result) in enumerate(zip(leaving, results, strict=True)):
            # An output gets an autograd history and is the caller's to change, so it is neither the tensor that the store
            # keeps nor a view to autograd; it shares the version counter, which tells of changes. A gradient is not the
            # model's own tensor.
            if s == 0 or self.line.instances[instance].origin in ("source", "constant"):
                results[k] = graph.call_method("detach", (result,))
        graph.output((tuple(results), tuple(values[i] for i in stored)))
        module = fx.GraphModule(self.joint.graph, graph, class_name=f"Segment{s}")
        return module, tuple(self.places[i] for i in stored)

    def _value(self, graph: fx.Graph, values: dict[int, fx.Node], instance: int) -> fx.Node:
        made: Instance = self.line.instances[instance]
        if instance not in values and made.origin == "constant":
            target = made.node.target
            assert isinstance(target, str)
            values[instance] = graph.get_attr(target)
            values[instance].meta["val"] = made.node.meta.get("val")
        return values[instance]

    def _call(self, graph: fx.Graph, values: dict[int, fx.Node], call: Call, s: int) -> None:
        node = call.node
        args = tuple(None if k in call.omitted else argument for k, argument in enumerate(node.args))
        args, kwargs = fx.node.map_arg(
            (args, dict(node.kwargs)), lambda argument: self._value(graph, values, call.reads[argument])
        )
        name = node.name
        assert callable(node.target)
        if call.keeps is not None:
            values[call.keeps] = graph.create_node(
                "call_function", generator_state, (_device(node),), name=f"generator_state_{name}"
            )
        if call.replays is not None:
            state = values[call.replays]
            repeat = repeating(node.target, _device(node))
            result = graph.create_node("call_function", repeat, (state, *args), kwargs, name=name)
        else:
            binding = Binding(node.target) if call.omitted else self.binder.binding(node)
            if binding.function is None:
                result = graph.create_node("call_method", binding.method, args, kwargs, name=name)
            else:
                result = graph.create_node("call_function", binding.function, args, kwargs, name=name)
            result.meta.update(operator=node.target, captured=node, again=node in self.executed)
        self.executed.add(node)
        result.meta["val"] = node.meta.get("val")
        values[call.result] = result
        for element in call.elements:
            if self._is_needed(element, s):
                made = self.line.instances[element]
                values[element] = graph.create_node(
                    "call_function", operator.getitem, (result, made.element), name=made.node.name
                )
                values[element].meta["val"] = made.node.meta.get("val")

    def _is_needed(self, instance: int, s: int) -> bool:
        return bool(self.used_in[instance]) or (s == 0 and instance in self.passed_on)


def _passed_arguments(call: Call) -> set[fx.Node]:
    if not call.omitted:
        return set(call.reads)
    found: set[fx.Node] = set()
    args = tuple(argument for k, argument in enumerate(call.node.args) if k not in call.omitted)
    fx.node.map_arg((args, dict(call.node.kwargs)), found.add)
    return found


def _device(node: fx.Node) -> torch.device:
    """Where ``node`` draws its random numbers."""
    tensors = [leaf for leaf in pytree.tree_leaves(node.meta["val"]) if isinstance(leaf, torch.Tensor)]
    return tensors[0].device
