"""The torch.fx graph of one segment.

A graph takes one list and empties it; the code that torch.fx generates then drops each value after its last use.

Nodes carry what a compiler needs to know, in ``meta``:

- ``val``: the tensors of the node, as fakes;
- ``operator``: the operator that the node runs, whichever function or method it calls;
- ``captured``: the node of the joint graph that it executes;
- ``recomputed``: whether an earlier node has executed it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.planner.codegen.cuts import Cuts
from remat_planner.planner.codegen.dataflow import Dataflow
from remat_planner.planner.codegen.executions import Execution
from remat_planner.planner.codegen.numbers_of_sizes import with_names
from remat_planner.planner.codegen.op_bindings import Binder, Binding, taking_number
from remat_planner.planner.codegen.rng_replay import DrawnFrom
from remat_planner.planner.torch_private import forget_source_with
from remat_planner.tracer.joint import Joint


class GraphWriter:
    """Writes the graphs of the segments, in their order; ``executed`` are nodes of the joint graph that ran before these."""

    def __init__(self, joint: Joint, flow: Dataflow, cuts: Cuts, executed: Iterable[fx.Node] = ()) -> None:
        self._joint = joint
        self._flow = flow
        self._line = flow.line
        self._cuts = cuts
        self._binder = Binder()
        self._executed = set(executed)

    def write(
        self, segment: int, arguments: Sequence[int], returned: Sequence[int | None]
    ) -> tuple[fx.GraphModule, tuple[int, ...]]:
        """The graph of a segment, and the places in the store of the values that it stores.

        It takes the instances ``arguments`` in a list and returns (the instances ``returned``, the values to store).
        """
        graph = fx.Graph()
        box = graph.placeholder("box")
        values: dict[int, fx.Node] = {}
        for position, instance in enumerate(arguments):
            node = self._line.instances[instance].node
            values[instance] = graph.create_node("call_function", operator.getitem, (box, position), name=node.name)
            values[instance].meta["val"] = node.meta.get("val")
        graph.call_method("clear", (box,))
        for position in range(*self._cuts.bounds[segment]):
            if position not in self._cuts.skipped:
                self._execute(graph, values, self._line.executions[position], segment)
        stored = [i for i in self._flow.stored_by(segment) if i in values]
        results = [None if i is None else self._value(graph, values, i) for i in returned]
        for k, (index, result) in enumerate(zip(returned, results, strict=True)):
            if index is None:
                continue
            # The caller may change an output, and autograd gives it a history. So an output is not the stored tensor itself
            # and, to autograd, no view of it; they share the version counter, which reveals changes. And a gradient must not
            # be a tensor of the model.
            if segment == 0 or self._line.instances[index].kind in ("source", "constant"):
                results[k] = graph.call_method("detach", (result,))
        graph.output((tuple(results), tuple(values[i] for i in stored)))
        module = fx.GraphModule(self._joint.graph, graph, class_name=f"Segment{segment}")
        forget_source_with(module)
        return module, tuple(self._flow.places[i] for i in stored)

    def _value(self, graph: fx.Graph, values: dict[int, fx.Node], index: int) -> fx.Node:
        instance = self._line.instances[index]
        if index not in values and instance.kind == "constant":
            target = instance.node.target
            assert isinstance(target, str)
            values[index] = graph.get_attr(target)
            values[index].meta["val"] = instance.node.meta.get("val")
        if index not in values and instance.kind == "zeros":
            like = instance.node.meta["val"]
            form = {"dtype": like.dtype, "device": like.device}
            shape = with_names(instance.node.meta.get("shape", tuple(like.shape)))
            values[index] = graph.create_node("call_function", torch.zeros, (shape,), form, name=f"zeros_{instance.node.name}")
            values[index].meta["val"] = like
        return values[index]

    def _execute(self, graph: fx.Graph, values: dict[int, fx.Node], execution: Execution, segment: int) -> None:
        node = execution.node
        args = with_names(tuple(None if k in execution.omitted else argument for k, argument in enumerate(node.args)))
        args, kwargs = fx.node.map_arg(
            (args, with_names(dict(node.kwargs))), lambda argument: self._value(graph, values, execution.reads[argument])
        )
        assert callable(node.target)
        if execution.saved_state is not None:
            values[execution.saved_state] = graph.create_node(
                "call_function", DrawnFrom.of(node).state(), (), name=f"generator_state_{node.name}"
            )
        if execution.replayed_state is not None:
            state = values[execution.replayed_state]
            repeat = DrawnFrom.of(node).repeating(node.target)
            result = graph.create_node("call_function", repeat, (state, *args), kwargs, name=node.name)
        else:
            binding = Binding(None, "add_") if execution.in_place else self._binding(node, omits=bool(execution.omitted))
            if binding.function is None:
                result = graph.create_node("call_method", binding.method, args, kwargs, name=node.name)
            else:
                result = graph.create_node("call_function", binding.function, args, kwargs, name=node.name)
            result.meta.update(operator=node.target, captured=node, recomputed=node in self._executed)
        self._executed.add(node)
        result.meta["val"] = node.meta.get("val")
        values[execution.result] = result
        for index in execution.elements:
            if self._flow.is_needed(index, segment):
                element = self._line.instances[index]
                values[index] = graph.create_node(
                    "call_function", operator.getitem, (result, element.element), name=element.node.name
                )
                values[index].meta["val"] = element.node.meta.get("val")

    def _binding(self, node: fx.Node, *, omits: bool) -> Binding:
        """How to call the operator of ``node``; ``omits`` says that arguments of the capture are left out."""
        target: Any = node.target
        if "generator" in node.meta:
            return Binding(DrawnFrom.of(node).drawing(target))
        if "factor" in node.meta:
            return Binding(taking_number(target, node.meta["factor"]))
        return Binding(target) if omits else self._binder.binding(node)
