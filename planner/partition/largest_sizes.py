"""The largest sizes that a graph is compiled for, and the graph at these.

``torch.compile`` captures a graph for several sizes with symbols in their place. Its partition is planned for the largest ones,
where each of its tensors is largest too. That is shown for each size and stride; a graph for which it cannot be is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import ShapesError
from remat_planner.planner.torch_symbols import (
    added_condition,
    bounds_of,
    environment_of,
    grows_to,
    is_marked,
    is_symbolic_number,
    names_of,
    number_at,
    number_now,
    shape_expressions,
    symbols_in,
    tensor_at,
)

logger = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class LargestSizes:
    """The largest sizes that a graph is planned for.

    Attributes:
        numbers: the value of each symbol at these sizes; none where the graph is for given ones.
    """

    numbers: Mapping[Any, int | float]

    def of(self, number: Any) -> int:
        """A number of bytes, or a size, at the largest sizes."""
        return int(number_at(number, self.numbers))

    def graph(self, graph: fx.Graph) -> fx.Graph:
        """A copy of ``graph`` for the largest sizes alone; itself where it is for given ones.

        Its nodes have the same names. Numbers that depend on sizes are no nodes but inputs.
        """
        if not self.numbers:
            return graph
        copy = fx.Graph()
        at: dict[fx.Node, Any] = {}
        storages: dict[int, torch.Tensor] = {}
        for node in graph.nodes:
            value = pytree.tree_map(lambda v: self._at(v, storages), node.meta.get("val"))
            is_number = is_symbolic_number(node.meta.get("val"))
            if is_number:
                at[node] = value
            if not is_number or node.op == "placeholder":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), at.__getitem__)
                copied = copy.create_node(node.op, node.target, args, kwargs, node.name)
                copied.meta = {**node.meta, "val": value}
                at.setdefault(node, copied)
        return copy

    def _at(self, value: Any, storages: dict[int, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            return tensor_at(value, self.numbers, storages)
        return number_at(value, self.numbers)


def largest_sizes(graph: fx.Graph, seen: MutableMapping[str, int]) -> LargestSizes:
    """The largest sizes that the joint ``graph`` is for.

    A size without a range of the user's is planned for the largest of all calls for which the model was compiled. The compiled
    graph is for no larger one then, so that ``torch.compile`` compiles another.

    Args:
        graph: that ``torch.compile`` captured.
        seen: for the name of each such size the largest of earlier calls; that of this one is added.

    Raises:
        ShapesError: a size depends on values of tensors, or a tensor is larger where a size is smaller.
    """
    tensors = [
        (node, value)
        for node in graph.nodes
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor) or is_symbolic_number(value)
    ]
    of_forms = {symbol for _, value in tensors if isinstance(value, torch.Tensor) for symbol in symbols_in(value)}
    environments = {symbol: environment_of(value) for _, value in tensors for symbol in symbols_in(value)}
    numbers: dict[Any, int | float] = {}
    bounds: dict[Any, tuple[int, int]] = {}
    stated: list[str] = []
    for symbol in sorted(environments, key=str):
        environment = environments[symbol]
        now = number_now(environment, symbol)
        if symbol not in of_forms and now is not None:
            numbers[symbol] = now
            continue
        least, most = bounds_of(environment, symbol)
        if now is None and most is None:
            raise ShapesError(
                f"torch.compile captured the model for a size, {symbol}, that depends on values of tensors and has no upper "
                "bound, so its bytes are known in no call: state one in the forward, torch._check(n <= largest), or use "
                "remat_planner.plan",
                number=None,
            )
        # A bound that follows from what the model does is often a huge one.
        if now is not None and not is_marked(environment, symbol):
            names = names_of(environment, symbol)
            largest = max(int(now), *(seen.get(name, 0) for name in names))
            seen.update(dict.fromkeys(names, largest))
            if most is None or largest < most:
                most = largest
                added_condition(environment, symbol, most)
            stated.append(f"{names[0]} = {most}")
        assert most is not None
        numbers[symbol], bounds[symbol] = most, (least, most)
    if stated:
        logger.info(
            "torch.compile captured the model for sizes that may change. The budget holds for up to %s, the largest that were "
            "seen; for larger ones the model is compiled again. Call it with the largest inputs first to compile once",
            ", ".join(stated),
        )
    _refuse_shrinking(tensors, bounds)
    return LargestSizes(numbers)


def _refuse_shrinking(tensors: list[tuple[fx.Node, Any]], bounds: Mapping[Any, tuple[int, int]]) -> None:
    shown: set[Any] = set()
    for node, tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            continue
        for expression in shape_expressions(tensor) - shown:
            if not grows_to(expression, bounds):
                line = (node.stack_trace or "").strip().splitlines()
                raise ShapesError(
                    f"torch.compile captured the model for sizes that may change, and a tensor of {node.target} may be larger "
                    f"where these are smaller (its size or stride {expression}{': ' + ' '.join(line[-2:]) if line else ''}), "
                    "so the budget is not shown to hold for all: pass dynamic=False to torch.compile, which then compiles once "
                    "for each shape, each within the budget",
                    number=None,
                )
            shown.add(expression)
