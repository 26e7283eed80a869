"""Random draws that the caller's own checkpointing repeats.

``torch.utils.checkpoint`` runs a block again in the backward with the generator set back, so a draw there gives what it gave in
the forward. A graph has no such switch: the repeated draw is replaced by the first one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.errors import UnsupportedOperatorError
from remat_planner.tracer.joint import SAME_TENSOR, is_random


def use_first_draws(graph: fx.Graph) -> None:
    """Let what reads a repeated draw read the draw of the forward that it repeats.

    Raises:
        UnsupportedOperatorError: that one is not found.
    """
    nodes = [node for node in graph.nodes if node.op in ("call_function", "get_attr")]
    if not any(node.meta.get("replayed") for node in nodes):
        return
    number: dict[fx.Node, fx.Node] = {}  # each node's first equal
    first: dict[Any, fx.Node] = {}
    draws: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        if node.target in SAME_TENSOR:  # a block that is run again starts from detached inputs
            number[node] = number.get(node.args[0], node.args[0])
            continue
        key = _key(node, number)
        if node.op == "call_function" and is_random(node.target, node.args, node.kwargs):
            if not node.meta.get("replayed"):
                draws[key].append(node)
            elif draws[key]:
                same_module = [d for d in draws[key] if d.meta.get("module") == node.meta.get("module")]
                original = (same_module or draws[key])[0]
                draws[key].remove(original)
                number[node] = original
                node.replace_all_uses_with(original)
                graph.erase_node(node)
            else:
                raise UnsupportedOperatorError(
                    f"{node.meta.get('source')}: a block under torch.utils.checkpoint draws numbers when it is run again "
                    "that it did not draw at first; leave the checkpoint out, the plan recomputes in its place",
                    operator=str(node.target),
                    source=str(node.meta.get("source")),
                )
        else:
            number[node] = first.setdefault(key, node)


def _key(node: fx.Node, number: dict[fx.Node, fx.Node]) -> Any:
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    named = tuple(number.get(a, a) if isinstance(a, fx.Node) else (type(a), repr(a)) for a in leaves)
    return node.op, node.target, named, str(spec)
