"""How a backward brings gradients to the leaves: in which order, and each by how many edges of the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.autograd.graph import Node


@contextmanager
def arrival_order(leaves: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Yield a list to which a backward inside appends the index of each leaf when its gradient is complete."""
    order: list[int] = []
    hooks = [leaf.register_hook(lambda _, k=k: order.append(k)) for k, leaf in enumerate(leaves)]  # type: ignore[no-untyped-call]
    try:
        yield order
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
