"""How a backward brings gradients to the leaves: in which order, and each by how many edges of the autograd graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


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
    stack = list(dict.fromkeys(output.grad_fn for output in outputs if output.grad_fn is not None))
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            leaf = id(getattr(node, "variable", None))
            if leaf in count:
                count[leaf] += 1
            elif node not in seen:
                seen.add(node)
                stack.append(node)
    return tuple(count.values())
