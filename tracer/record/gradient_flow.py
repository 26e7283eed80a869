"""Follows the gradients of a recorded backward through autograd's graph, from the tangents to the leaves.

Hooks on the nodes see what each node gets and returns. From that it is known which additions autograd itself will make, and the
recorder reports each operator that runs: so an addition of autograd's is told from one in a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.autograd.graph import Node, get_gradient_edge

from remat_planner.tracer.joint import GradientFlow, InPlaceOfMissing, Meeting, Tangents
from remat_planner.tracer.torch_private import sequence_number

_ZEROS_FOR_MISSING = (
    "SplitBackward",
    "SplitWithSizesBackward",
    "UnsafeSplitBackward",
    "UnsafeSplitWithSizesBackward",
    "UnbindBackward",
)
_NONE_FOR_MISSING = ("CudnnRnnBackward", "MiopenRnnBackward", "MkldnnRnnLayerBackward", "ThnnFusedLstmCellBackward")

_Place = tuple[Node, int]
"""A node, and which of its gradients."""


@dataclass
class _Arrived:
    """What has arrived so far at one place."""

    tensor: torch.Tensor
    tangents: Tangents


@dataclass
class FollowedGradients:
    """The flow of a backward from ``outputs``, at each of which one tangent arrives, while ``following`` is entered.

    Attributes:
        sums, nodes, meetings: as in ``GradientFlow``.
        known: whether every addition that autograd makes was seen.
    """

    outputs: Sequence[torch.Tensor]
    tangents: Sequence[torch.Tensor]
    sums: dict[int, tuple[Tangents, Tangents]] = field(default_factory=dict)
    nodes: dict[int, Tangents] = field(default_factory=dict)
    meetings: dict[int, Meeting] = field(default_factory=dict)
    known: bool = True

    def __post_init__(self) -> None:
        self._arrived: dict[_Place, _Arrived] = {}
        self._on_the_way: list[tuple[_Place, _Arrived]] = []

    @contextmanager
    def following(self) -> Iterator[FollowedGradients]:
        """Follow the backward that runs inside. With one tangent there is nothing to follow."""
        if len(self.outputs) < 2:
            yield self
            return
        roots = [get_gradient_edge(output) for output in self.outputs]
        handles: list[Any] = []
        for node in _inner_nodes([edge.node for edge in roots]):
            handles.append(node.register_prehook(self._before(node)))
            handles.append(node.register_hook(self._after(node)))
        for k, (edge, tangent) in enumerate(zip(roots, self.tangents, strict=True)):
            self._send((edge.node, edge.output_nr), _Arrived(tangent, frozenset([k])))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def ran(self, operator: Any, args: tuple[Any, ...], result: Any, index: int) -> None:
        """Note that the operator with ``index`` ran in the backward: it may be an addition of autograd's."""
        if operator is not torch.ops.aten.add.Tensor or not self._on_the_way:
            return
        place, term = self._on_the_way[0]
        before = self._arrived[place]
        if args[0] is before.tensor and args[1] is term.tensor:
            self.sums[index] = (before.tangents, term.tangents)
        elif args[0] is term.tensor and args[1] is before.tensor:
            self.sums[index] = (term.tangents, before.tangents)
        else:
            return
        self._arrived[place] = _Arrived(result, before.tangents | term.tangents)
        del self._on_the_way[0]
        self._take_first_ones()

    def of_gradients(self, leaves: Sequence[torch.Tensor]) -> GradientFlow | None:
        """The whole flow, once the backward is over; None where an addition was missed."""
        if len(self.outputs) < 2:
            return GradientFlow((frozenset(range(len(self.outputs))),) * len(leaves))
        self._give_up_sums()
        places = [(edge.node, edge.output_nr) for edge in map(get_gradient_edge, leaves)]
        if not self.known:
            return None
        arrived = [self._arrived.get(place) for place in places]
        gradients = tuple(frozenset() if one is None else one.tangents for one in arrived)
        return GradientFlow(gradients, self.sums, self.nodes, self.meetings)

    def _send(self, place: _Place, term: _Arrived) -> None:
        self._on_the_way.append((place, term))
        self._take_first_ones()

    def _take_first_ones(self) -> None:
        """Let what needs no addition arrive."""
        while self._on_the_way and self._on_the_way[0][0] not in self._arrived:
            place, term = self._on_the_way.pop(0)
            self._arrived[place] = term

    def _give_up_sums(self) -> None:
        """Autograd goes on to the next node: the additions of what is still on the way were missed."""
        self.known = self.known and not self._on_the_way
        self._on_the_way.clear()

    def _before(self, node: Node) -> Callable[[tuple[torch.Tensor | None, ...]], None]:
        def note(gradients: tuple[torch.Tensor | None, ...]) -> None:
            self._give_up_sums()
            places = [(node, k) for k, gradient in enumerate(gradients) if gradient is not None]
            self.known = self.known and all(place in self._arrived for place in places)
            reached = [self._arrived.pop(place).tangents for place in places if place in self._arrived]
            number = sequence_number(node)
            self.nodes[number] = frozenset().union(*reached)
            if len(set(reached)) > 1:
                self.meetings[number] = Meeting(tuple(reached), _in_place_of_missing(node), type(node).__name__)

        return note

    def _after(self, node: Node) -> Callable[[tuple[torch.Tensor | None, ...], Any], None]:
        def note(returned: tuple[torch.Tensor | None, ...], _: Any) -> None:
            tangents = self.nodes.get(sequence_number(node), frozenset())
            for (following, k), gradient in zip(node.next_functions, returned, strict=True):
                if following is not None and gradient is not None:
                    self._send((following, k), _Arrived(gradient, tangents))

        return note


@contextmanager
def noting_materialized_gradients() -> Iterator[None]:
    """Note on each ``ctx`` of an autograd.Function whether its backward gets zeros where no gradient arrives."""
    original = FunctionCtx.set_materialize_grads

    def noting(ctx: Any, value: bool) -> None:
        original(ctx, value)
        ctx._wants_zeros = value

    setattr(FunctionCtx, "set_materialize_grads", noting)  # noqa: B010 - mypy takes an assignment for a mistake
    try:
        yield
    finally:
        setattr(FunctionCtx, "set_materialize_grads", original)  # noqa: B010


def _inner_nodes(roots: Sequence[Node]) -> list[Node]:
    """The nodes that a backward from ``roots`` runs, without those that leave a gradient at a leaf."""
    found = dict.fromkeys(roots)
    stack = list(found)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                stack.append(node)
    return [node for node in found if isinstance(node, BackwardCFunction) or not hasattr(node, "variable")]


def _in_place_of_missing(node: Node) -> InPlaceOfMissing:
    if isinstance(node, BackwardCFunction):
        return "zeros" if getattr(node, "_wants_zeros", True) else "unknown"
    name = type(node).__name__.rstrip("0123456789")
    return "zeros" if name in _ZEROS_FOR_MISSING else "none" if name in _NONE_FOR_MISSING else "unknown"
