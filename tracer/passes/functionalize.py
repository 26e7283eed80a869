"""From the recorded step to a functional graph: only buffers and inputs are written to, once each, by ``copy_``.

``torch.func.functionalize`` traces the recorded graph once more. Where its out-of-place forms would give other bits than eager,
passes of this room replace them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions import is_custom, run_on_copies, use_checks, use_custom_operators, use_functions
from remat_planner.tracer.graph_trace import newest_node, nodes_after, recorded_graph, trace
from remat_planner.tracer.operators import with_some_number, written_arguments
from remat_planner.tracer.passes.checkpointed_draws import use_first_draws
from remat_planner.tracer.passes.eager_gradients import use_eager_gradients
from remat_planner.tracer.passes.eager_memory import EagerMemory
from remat_planner.tracer.passes.effects import readers
from remat_planner.tracer.passes.in_place_on_strided import mark_in_place, pure_form_of_permuted, run_in_place_layouts
from remat_planner.tracer.passes.in_place_views import take_views_out_of_place
from remat_planner.tracer.passes.pure_forms import use_pure_forms
from remat_planner.tracer.passes.random_draws import fill_as_eager
from remat_planner.tracer.record import Recording
from remat_planner.tracer.refusals import no_functional_form_error
from remat_planner.tracer.torch_private import FakeTensorMode
from remat_planner.tracer.torch_values import like, result_given

aten = torch.ops.aten
_COPY = "copy_of_pure_form"
_ORIGIN = ("module", "source", "in_backward", "replayed", "operator", "generator", "repeated")


def make_functional(recording: Recording, mode: FakeTensorMode, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The recorded step as a functional graph module.

    Its placeholders are ``inputs`` (parameters, buffers, tensor inputs), then tangents; it returns tensor outputs, then
    gradients. The ``copy_`` that updates a buffer or input stands right after the last reader of the old value in the forward.

    Raises:
        UnsupportedOperatorError: a recomputation under ``torch.utils.checkpoint`` draws numbers that its forward did not, or a
            write in place has no functional form.
    """
    module = recording.module
    tangents = _tangents_to_placeholders(module.graph, [name for name, _ in recording.tangents])
    take_views_out_of_place(module.graph)
    if any(_is_mutable(node) for node in module.graph.nodes):
        module.recompile()
        module = _traced_without_mutations(module, mode, [*_stand_ins(inputs, mode), *(t.meta["val"] for t in tangents)])
        _place_late_views(module.graph)
        strides_changed = [fill_as_eager(module.graph, mode), run_in_place_layouts(module.graph, mode)]
        if any(strides_changed):
            _recompute_fakes(module, mode)
        _drop_copies_of_pure_forms(module.graph)
        _update_early(module.graph)
    use_pure_forms(module.graph)
    use_eager_gradients(module.graph)
    use_functions(module.graph)
    use_custom_operators(module.graph)
    use_checks(module.graph)
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


def _place_late_views(graph: fx.Graph) -> None:
    """Views of changed tensors are taken again when results are returned, at no node's run: they belong to what they view."""
    for node in graph.nodes:
        if node.op == "call_function" and not any(key in node.meta for key in _ORIGIN):
            for argument in node.all_input_nodes:
                origin = {key: argument.meta[key] for key in ("module", "source", "in_backward") if key in argument.meta}
                node.meta.update(origin)


def _drop_copies_of_pure_forms(graph: fx.Graph) -> None:
    """Remove each copy of a pure form's result into the tensor that eager changes, where both have one layout by now."""
    for node in list(graph.nodes):
        if node.meta.pop(_COPY, False):
            source: Any = node.args[1]
            if source.meta["val"].dtype == node.meta["val"].dtype and source.meta["val"].stride() == node.meta["val"].stride():
                node.replace_all_uses_with(source)
                graph.erase_node(node)


# In-place operators of PyTorch that functionalization does not know, with their pure forms.
_PURE_FORMS: dict[Any, Callable[..., torch.Tensor]] = {
    aten.polygamma_.default: lambda tensor, n: aten.polygamma.default(n, tensor),
}


def _pure_form(node: fx.Node) -> Callable[..., torch.Tensor] | None:
    """What to call in place of the in-place operator of ``node``; None where functionalization has the right form."""
    written = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(written, fx.Node):
        return None
    return _PURE_FORMS.get(node.target) or pure_form_of_permuted(node.target, written.meta.get("val"))


class _Replay(fx.Interpreter):
    """Runs a graph under a trace; the nodes that it records inherit the origin of the node that it runs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._factors: dict[fx.Node, fx.Node] = {}
        self._memory = EagerMemory()

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return with_some_number(n, args), kwargs

    def run_node(self, n: fx.Node) -> Any:
        last = newest_node(recorded_graph())
        pure = _pure_form(n)
        try:
            operator: Any = n.target
            if _is_mutable(n) and is_custom(operator):
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                result = run_on_copies(operator, args, kwargs, written_arguments(operator, args, kwargs))
            else:
                with _sized_as_recorded(n):
                    result = super().run_node(n) if pure is None else self._run_pure(n, pure)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise no_functional_form_error(n.target, n.meta.get("source", ""), error) from error
        new_nodes = list(nodes_after(last))
        mark_in_place(n, new_nodes)
        if pure is not None:
            new_nodes[-1].meta[_COPY] = new_nodes[-1].target is aten.copy.default
        for node in new_nodes:
            node.meta.update({key: n.meta[key] for key in _ORIGIN if key in n.meta})
        self._keep_factor(n, new_nodes)
        self._memory.label(n, new_nodes)
        return result

    def _run_pure(self, n: fx.Node, pure: Callable[..., torch.Tensor]) -> Any:
        """Write the result of ``pure`` into the tensor that ``n`` changes, which keeps its layout."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return args[0].copy_(pure(*args, **kwargs))

    def _keep_factor(self, n: fx.Node, new_nodes: list[fx.Node]) -> None:
        """Let the new node compute a factor that a node computed for ``n``."""
        if n.target is aten.reciprocal.default:
            self._factors[n] = new_nodes[-1]
        elif (position := n.meta.get("factor")) is not None:
            call = next(node for node in new_nodes if node.target is n.target)
            factor: Any = n.args[position]
            call.update_arg(position, self._factors[factor])
            call.meta["factor"] = position


def _sized_as_recorded(node: fx.Node) -> AbstractContextManager[None]:
    """Let the results whose size depends on values be as large as they were when the node was recorded."""
    return result_given(node.target, lambda: pytree.tree_map_only(torch.Tensor, like, node.meta["val"]))


def _recompute_fakes(module: fx.GraphModule, mode: FakeTensorMode) -> None:
    """Run the graph on its placeholders' fakes and take over the results."""

    class _Propagate(fx.Interpreter):
        def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
            args, kwargs = super().fetch_args_kwargs_from_env(n)
            return with_some_number(n, args), kwargs

        def run_node(self, n: fx.Node) -> Any:
            if n.op == "placeholder" or getattr(n.target, "draws", False):
                return n.meta["val"]
            with _sized_as_recorded(n):
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
