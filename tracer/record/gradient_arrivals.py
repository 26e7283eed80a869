"""How a backward brings gradients to the leaves: in which order, and each by how many edges of the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import Node

from remat_planner.tracer.refusals import history_error, unregistered_parameter_error


@dataclass(frozen=True)
class Arrivals:
    """The gradients that have arrived at leaves.

    Attributes:
        order: the index of each leaf, when its gradient is complete.
        strides: of each gradient as it arrives, by the index of its leaf. An operator that made the leaf would get it so; the
            gradient that autograd leaves in ``.grad`` may lie otherwise.
    """

    order: list[int] = field(default_factory=list)
    strides: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def note(self, leaf: int, gradient: torch.Tensor | None) -> None:
        """The gradient of ``leaf`` is complete; None where the operators that read the leaf give it none."""
        if gradient is None:
            return
        self.order.append(leaf)
        if gradient.layout is torch.strided:
            self.strides[leaf] = tuple(gradient.stride())


@contextmanager
def noting_arrivals(leaves: Sequence[torch.Tensor]) -> Iterator[Arrivals]:
    """Yield the arrivals, to which a backward inside adds."""
    arrivals = Arrivals()
    hooks = [
        leaf.register_hook(lambda gradient, k=k: arrivals.note(k, gradient))  # type: ignore[no-untyped-call]
        for k, leaf in enumerate(leaves)
    ]
    try:
        yield arrivals
    finally:
        for hook in hooks:
            hook.remove()


def edges_into(leaves: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """For each leaf, the number of edges by which a backward from ``outputs`` reaches it; autograd adds up what they bring."""
    count = {id(leaf): 0 for leaf in leaves}
    for output in outputs:
        if id(output) in count:
            count[id(output)] += 1
    for node in nodes_behind(outputs):
        for following, _ in node.next_functions:
            leaf = id(getattr(following, "variable", None))
            if leaf in count:
                count[leaf] += 1
    return tuple(count.values())


def refuse_histories(tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], outputs: Sequence[torch.Tensor]) -> None:
    """Refuse a step whose backward would run on through tensors in Python state, into an earlier step or into a parameter.

    Args:
        tensors: the stand-in of each, and the tensor itself, by name.
        outputs: where the backward starts.

    Raises:
        PythonStateError: ``outputs`` depend on one with a history otherwise than through a detached alias.
        ModelNotSupportedError: they depend on one without, in which a gradient would be accumulated.
    """
    edges = edges_into([stand_in for stand_in, _ in tensors.values()], outputs)
    reached = {name: own for (name, (_, own)), found in zip(tensors.items(), edges, strict=True) if found}
    if leaves := [name for name, own in reached.items() if own.grad_fn is None]:
        raise unregistered_parameter_error(leaves)
    if reached:
        raise history_error([*reached])


def nodes_behind(outputs: Iterable[torch.Tensor]) -> Iterator[Node]:
    """The autograd nodes through which a backward from ``outputs`` runs."""
    stack = list(dict.fromkeys(output.grad_fn for output in outputs if output.grad_fn is not None))
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
