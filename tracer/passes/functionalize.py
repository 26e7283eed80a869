"""From the recorded step to a pure graph: nothing is written in place but the buffers, each once and in the forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.errors import (
    UnsupportedOperatorError,
)
from remat_planner.tracer.joint import written_arguments
from remat_planner.tracer.passes.checkpointed_draws import use_first_draws
from remat_planner.tracer.passes.in_place_on_strided import mark_in_place, run_in_place_layouts
from remat_planner.tracer.passes.pure_forms import use_pure_forms
from remat_planner.tracer.passes.random_draws import fill_as_eager
from remat_planner.tracer.record import Recording
from remat_planner.tracer.torch_private import FakeTensorMode, recorded_graph, trace

_ORIGIN = ("module", "source", "in_backward", "replayed", "operator")


def make_functional(recording: Recording, mode: FakeTensorMode, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """A graph module of placeholders (parameters, buffers, inputs: ``inputs``; tangents) that returns tensor outputs, then
    gradients.

    Buffers and inputs that the step writes to get one ``copy_`` each, right after their last reader in the forward.
    """
    module = recording.module
    tangents = _tangents_to_placeholders(module.graph, [name for name, _ in recording.tangents])
    if any(_is_mutable(node) for node in module.graph.nodes):
        module.recompile()
        replay = _Replay(module)

        def flat(*args: torch.Tensor) -> list[Any]:
            with mode:
                return pytree.tree_leaves(replay.run(*args), is_leaf=lambda x: x is None)

        arguments = [*_stand_ins(inputs, mode), *(t.meta["val"] for t in tangents)]
        module = trace(torch.func.functionalize(flat, remove="mutations"), *arguments)
        changed = [fill_as_eager(module.graph, mode), run_in_place_layouts(module.graph, mode)]
        if any(changed):
            _make_fakes_again(module, mode)
        _update_early(module.graph)
    use_pure_forms(module.graph)
    use_first_draws(module.graph)
    return module


def _stand_ins(inputs: Sequence[torch.Tensor], mode: FakeTensorMode) -> list[torch.Tensor]:
    with mode, torch.no_grad():
        return [torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=t.device) for t in inputs]


class _Replay(fx.Interpreter):
    """Runs a graph under a trace; the nodes that each of its own nodes leaves behind inherit where that one came from."""

    def run_node(self, n: fx.Node) -> Any:
        graph = recorded_graph()
        last = graph._root.prev
        result = super().run_node(n)
        mark_in_place(n, last.next, graph._root)
        node = last.next
        while node is not graph._root:
            node.meta.update({key: n.meta[key] for key in _ORIGIN if key in n.meta})
            node = node.next
        return result


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _tangents_to_placeholders(graph: fx.Graph, names: list[str]) -> list[fx.Node]:
    by_name = {node.name: node for node in graph.nodes}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
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


def _make_fakes_again(module: fx.GraphModule, mode: FakeTensorMode) -> None:
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
    """Move each update of a buffer from the end, where it was recorded, to after the last forward reader of the old value."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for update in [n for n in graph.nodes if n.op == "call_function" and n.target is torch.ops.aten.copy_.default]:
        target, value = update.args[:2]
        if target.op != "placeholder":
            continue
        readers = [n for n in _readers_through_views(target) if n is not update and not n.meta.get("in_backward", False)]
        after = max((*readers, value), key=lambda n: place.get(n, -1))
        if after.op == "placeholder":
            after = [n for n in graph.nodes if n.op == "placeholder"][-1]
        after.append(update)
        place[update] = place[after]
        update.meta["in_backward"] = after.meta.get("in_backward", False)
        origin = value if value.op != "placeholder" else update
        update.meta.setdefault("module", origin.meta.get("module", ""))
        update.meta.setdefault("source", origin.meta.get("source", ""))


def _readers_through_views(node: fx.Node) -> list[fx.Node]:
    """The nodes that read ``node`` or a view of it."""
    storage = node.meta["val"].untyped_storage()._cdata
    readers = []
    for user in node.users:
        readers.append(user)
        value = user.meta.get("val")
        if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata == storage:
            readers += _readers_through_views(user)
    return readers


def in_place_leftovers(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that write in place although they should not: anything but updates of placeholders."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and any(
            not isinstance(a, fx.Node) or a.op != "placeholder" for a in written_arguments(node.target, node.args, node.kwargs)
        )
    ]


def refuse_in_place(graph: fx.Graph) -> None:
    for node in in_place_leftovers(graph):
        source = node.meta.get("source", "")
        raise UnsupportedOperatorError(
            f"{source or 'the model'}: {node.target} writes in place and has no form that does not: "
            "replace it by its out-of-place form",
            operator=str(node.target),
            source=source,
        )
