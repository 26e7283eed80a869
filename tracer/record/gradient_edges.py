"""TODO: ."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def edges_into(wanted: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """By how many edges the backward of ``outputs`` comes to each of the leaves ``wanted``: what they bring is added up."""
    count = {id(tensor): 0 for tensor in wanted}
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
