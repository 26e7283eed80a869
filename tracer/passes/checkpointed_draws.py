"""Random draws that the caller's own checkpointing repeats.

``torch.utils.checkpoint`` sets the generator back and runs a block again in the backward, so that each draw there equals one of
the forward. A graph cannot set the generator back, so this pass replaces the repeated draw by the first one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.operators import SAME_TENSOR, is_random
from remat_planner.tracer.refusals import unmatched_draw_error


def use_first_draws(graph: fx.Graph) -> None:
    """Replace each repeated draw by the draw of the forward that it repeats.

    Raises:
        UnsupportedOperatorError: the forward has no such draw.
    """
    nodes = [node for node in graph.nodes if node.op in ("call_function", "get_attr")]
    if not any(node.meta.get("replayed") for node in nodes):
        return
    equal: dict[fx.Node, fx.Node] = {}  # the first node that computes the same
    first: dict[Any, fx.Node] = {}
    draws: dict[Any, list[fx.Node]] = defaultdict(list)  # draws of the forward that are not repeated yet
    for node in nodes:
        if node.target in SAME_TENSOR:  # a block that runs again starts from detached inputs
            equal[node] = equal.get(node.args[0], node.args[0])
            continue
        key = _key(node, equal)
        if node.op != "call_function" or not is_random(node.target, node.args, node.kwargs):
            equal[node] = first.setdefault(key, node)
        elif not node.meta.get("replayed"):
            draws[key].append(node)
        else:
            original = _repeated_by(node, draws[key])
            draws[key].remove(original)
            equal[node] = original
            node.replace_all_uses_with(original)
            graph.erase_node(node)


def _repeated_by(node: fx.Node, draws: list[fx.Node]) -> fx.Node:
    """The first of ``draws``, of the same module where there is one."""
    if not draws:
        raise unmatched_draw_error(node)
    return next((draw for draw in draws if draw.meta.get("module") == node.meta.get("module")), draws[0])


def _key(node: fx.Node, equal: dict[fx.Node, fx.Node]) -> Any:
    """Equal for calls of the same operator on equal arguments."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    arguments = tuple(equal.get(a, a) if isinstance(a, fx.Node) else (type(a), repr(a)) for a in leaves)
    return node.op, node.target, arguments, str(spec)
