"""From the recorded step to a functional graph: only buffers and inputs are written to, once each, by ``copy_``.

``torch.func.functionalize`` traces the recorded graph once more. Where its out-of-place forms would give other bits than eager,
passes of this room replace them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions import use_checks, use_custom_operators, use_functions
from remat_planner.tracer.graph_trace import trace
from remat_planner.tracer.leaves import tensors_in
from remat_planner.tracer.operators import with_some_number
from remat_planner.tracer.passes.checkpointed_draws import use_first_draws
from remat_planner.tracer.passes.eager_gradients import use_eager_gradients
from remat_planner.tracer.passes.effects import readers
from remat_planner.tracer.passes.in_place_on_strided import run_in_place_layouts
from remat_planner.tracer.passes.in_place_views import take_views_out_of_place
from remat_planner.tracer.passes.pure_forms import use_pure_forms
from remat_planner.tracer.passes.random_draws import fill_as_eager
from remat_planner.tracer.passes.replay import COPY_OF_PURE_FORM, ORIGIN, Replay, form_of, is_mutable, sized_as_recorded
from remat_planner.tracer.record import Recording
from remat_planner.tracer.torch_private import FakeTensorMode


def make_functional(recording: Recording, mode: FakeTensorMode) -> fx.GraphModule:
    """The recorded step as a functional graph module.

    Its placeholders are parameters, buffers and tensor inputs, then tangents; it returns tensor outputs, then
    gradients. The ``copy_`` that updates a buffer or input stands right after the last reader of the old value in the forward.

    Raises:
        UnsupportedOperatorError: a recomputation under ``torch.utils.checkpoint`` draws numbers that its forward did not, or a
            write in place has no functional form.
    """
    module = recording.module
    _tangents_to_placeholders(module.graph, [name for name, _ in recording.tangents])
    take_views_out_of_place(module.graph)
    if any(is_mutable(node) for node in module.graph.nodes):
        module.recompile()
        module = _traced_without_mutations(module, mode)
        _place_late_views(module.graph)
        if changed := {*fill_as_eager(module.graph, mode), *run_in_place_layouts(module.graph, mode)}:
            _recompute_fakes(module, mode, changed)
        _drop_copies_of_pure_forms(module.graph)
        _update_early(module.graph)
    use_pure_forms(module.graph)
    use_eager_gradients(module.graph)
    use_functions(module.graph)
    use_custom_operators(module.graph)
    use_checks(module.graph)
    use_first_draws(module.graph)
    return module


def _tangents_to_placeholders(graph: fx.Graph, names: list[str]) -> None:
    by_name = {node.name: node for node in graph.nodes}
    last = _last_placeholder(graph)
    for i, name in enumerate(names):
        node = by_name[name]
        with graph.inserting_after(last):
            last = graph.placeholder(f"tangent_{i}")
        last.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(last)
        graph.erase_node(node)


def _traced_without_mutations(module: fx.GraphModule, mode: FakeTensorMode) -> fx.GraphModule:
    replay = Replay(module)

    def flat(*args: torch.Tensor) -> list[Any]:
        with mode:
            return pytree.tree_leaves(replay.run(*args), is_leaf=lambda x: x is None)

    arguments = (node.meta["val"] for node in module.graph.nodes if node.op == "placeholder")
    return trace(torch.func.functionalize(flat, remove="mutations"), *arguments)


def _place_late_views(graph: fx.Graph) -> None:
    """Views of changed tensors are taken again when results are returned, at no node's run: they belong to what they view."""
    for node in graph.nodes:
        if node.op == "call_function" and not any(key in node.meta for key in ORIGIN):
            for argument in node.all_input_nodes:
                origin = {key: argument.meta[key] for key in ("module", "source", "in_backward") if key in argument.meta}
                node.meta.update(origin)


def _drop_copies_of_pure_forms(graph: fx.Graph) -> None:
    """Remove each copy of a pure form's result into the tensor that eager changes, where both have one layout by now."""
    for node in list(graph.nodes):
        if node.meta.pop(COPY_OF_PURE_FORM, False):
            source: Any = node.args[1]
            if source.meta["val"].dtype == node.meta["val"].dtype and source.meta["val"].stride() == node.meta["val"].stride():
                node.replace_all_uses_with(source)
                graph.erase_node(node)


def _recompute_fakes(module: fx.GraphModule, mode: FakeTensorMode, changed: set[fx.Node]) -> None:
    """Run what follows from ``changed`` nodes on fakes, and take over the results; what keeps its form ends that."""
    stale = set(changed)

    class _Propagate(fx.Interpreter):
        def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
            args, kwargs = super().fetch_args_kwargs_from_env(n)
            return with_some_number(n, args), kwargs

        def run_node(self, n: fx.Node) -> Any:
            if n.op == "placeholder" or getattr(n.target, "draws", False):
                return n.meta["val"]
            if n.op == "call_function" and n not in stale and stale.isdisjoint(n.all_input_nodes):
                return n.meta.get("val")  # an operator's result that it was not asked for is None
            with sized_as_recorded(n):
                result = super().run_node(n)
            if n.op == "call_function":
                if n not in changed and _has_own_memory(n.target) and _forms(result) == _forms(n.meta.get("val")):
                    return n.meta.get("val")
                stale.add(n)
                n.meta["val"] = result
            return result

    with mode, torch.no_grad():
        _Propagate(module).run(*(n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"))


def _has_own_memory(target: Any) -> bool:
    """Whether an operator allocates all of its results."""
    return isinstance(target, torch._ops.OpOverload) and all(made.alias_info is None for made in target._schema.returns)


def _forms(value: Any) -> list[Any]:
    return [form_of(tensor) for tensor in tensors_in(value)]


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
