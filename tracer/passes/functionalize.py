"""From the recorded step to a functional graph: only buffers and inputs are written to, once each, by ``copy_``.

``torch.func.functionalize`` traces the recorded graph once more. Where its out-of-place forms would give other bits than eager,
passes of this room replace them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.passes.checkpointed_draws import use_first_draws
from remat_planner.tracer.passes.effects import readers
from remat_planner.tracer.passes.in_place_on_strided import mark_in_place, run_in_place_layouts
from remat_planner.tracer.passes.pure_forms import use_pure_forms
from remat_planner.tracer.passes.random_draws import fill_as_eager
from remat_planner.tracer.record import Recording
from remat_planner.tracer.torch_private import FakeTensorMode, newest_node, nodes_after, recorded_graph, trace

_ORIGIN = ("module", "source", "in_backward", "replayed", "operator", "generator")


def make_functional(recording: Recording, mode: FakeTensorMode, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The recorded step as a functional graph module.

    Its placeholders are ``inputs`` (parameters, buffers, tensor inputs), then tangents; it returns tensor outputs, then
    gradients. The ``copy_`` that updates a buffer or input stands right after the last reader of the old value in the forward.

    Raises:
        UnsupportedOperatorError: a recomputation under ``torch.utils.checkpoint`` draws numbers that its forward did not.
    """
    module = recording.module
    tangents = _tangents_to_placeholders(module.graph, [name for name, _ in recording.tangents])
    if any(_is_mutable(node) for node in module.graph.nodes):
        module.recompile()
        module = _traced_without_mutations(module, mode, [*_stand_ins(inputs, mode), *(t.meta["val"] for t in tangents)])
        strides_changed = [fill_as_eager(module.graph, mode), run_in_place_layouts(module.graph, mode)]
        if any(strides_changed):
            _recompute_fakes(module, mode)
        _update_early(module.graph)
    use_pure_forms(module.graph)
    use_first_draws(module.graph)
    return module


def _tangents_to_placeholders(graph: fx.Graph, names: list[str]) -> list[fx.Node]:
    by_name = {node.name: node for node in graph.nodes}
    last = _last_placeholder(graph)
    tangents = []
    for i, name in enumerate(names):
        node = by_name[name]
        with graph.inserting_after(last):
            last = graph.placeholder(f"tangent_{i}")
        last.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(last)
        graph.erase_node(node)
        tangents.append(last)
    return tangents


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _stand_ins(inputs: Sequence[torch.Tensor], mode: FakeTensorMode) -> list[torch.Tensor]:
    with mode, torch.no_grad():
        return [torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=t.device) for t in inputs]


def _traced_without_mutations(module: fx.GraphModule, mode: FakeTensorMode, arguments: list[torch.Tensor]) -> fx.GraphModule:
    replay = _Replay(module)

    def flat(*args: torch.Tensor) -> list[Any]:
        with mode:
            return pytree.tree_leaves(replay.run(*args), is_leaf=lambda x: x is None)

    return trace(torch.func.functionalize(flat, remove="mutations"), *arguments)


class _Replay(fx.Interpreter):
    """Runs a graph under a trace; the nodes that it records inherit the origin of the node that it runs."""

    def run_node(self, n: fx.Node) -> Any:
        last = newest_node(recorded_graph())
        result = super().run_node(n)
        new_nodes = list(nodes_after(last))
        mark_in_place(n, new_nodes)
        for node in new_nodes:
            node.meta.update({key: n.meta[key] for key in _ORIGIN if key in n.meta})
        return result


def _recompute_fakes(module: fx.GraphModule, mode: FakeTensorMode) -> None:
    """Run the graph on its placeholders' fakes and take over the results."""

    class _Propagate(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n.op == "placeholder" or getattr(n.target, "draws", False):
                return n.meta["val"]
            result = super().run_node(n)
            if n.op == "call_function":
                n.meta["val"] = result
            return result

    with mode, torch.no_grad():
        _Propagate(module).run(*(n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"))


def _update_early(graph: fx.Graph) -> None:
    """Move each update of a placeholder from the end, where it was recorded, to after the last forward reader of the old
    value.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    for update in [n for n in graph.nodes if n.op == "call_function" and n.target is torch.ops.aten.copy_.default]:
        target, value = update.args[:2]
        if target.op != "placeholder":
            continue
        forward_readers = [n for n in readers(target) if n is not update and not n.meta.get("in_backward", False)]
        after = max((*forward_readers, value), key=lambda n: place.get(n, -1))
        if after.op == "placeholder":
            after = _last_placeholder(graph)
        after.append(update)
        place[update] = place[after]
        update.meta["in_backward"] = after.meta.get("in_backward", False)
        origin = value if value.op != "placeholder" else update
        update.meta.setdefault("module", origin.meta.get("module", ""))
        update.meta.setdefault("source", origin.meta.get("source", ""))


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    return [node for node in graph.nodes if node.op == "placeholder"][-1]
