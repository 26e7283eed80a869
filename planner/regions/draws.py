"""Finds random draws with which the step calls as many of its blocks as it can.

LayerDrop and stochastic depth leave blocks out by chance. A plan for a step that leaves many out would not hold the budget in
one that leaves out few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from remat_planner.planner.measurement import KeptGenerators, KeptState, detached, state_restored
from remat_planner.planner.regions.forward import restore_forward

_MOST_DRAWS = 8
"""Forwards that are tried. One that calls all blocks ends the search."""


def draw_most_calls(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], blocks: Iterable[nn.Module], kept: KeptState
) -> bool:
    """Leave the default generators so that the next forward calls the most of ``blocks``, and the rest as it was.

    ``kept`` then includes the globals that the forward can reach. Returns whether it calls other blocks from draw to draw.
    """
    blocks = tuple(blocks)
    args, kwargs = detached(tuple(args), dict(kwargs))
    found: list[tuple[set[int], KeptGenerators]] = []
    with torch.no_grad():
        for _ in range(_MOST_DRAWS):
            before, called = KeptGenerators(), set[int]()
            with state_restored(model, args, kwargs) as state, ExitStack() as stack:
                for block in blocks:
                    stack.enter_context(_noted(block, called))
                with state.observed():
                    model(*args, **kwargs)
                after, moved = KeptGenerators(), before.have_moved()
            kept.include(state)
            found.append((called, before))
            if len(called) == len(blocks) or not moved:
                break
            after.put_back()
    most, generators = max(found, key=lambda draw: len(draw[0]))
    generators.put_back()
    return any(called != most for called, _ in found)


@contextmanager
def _noted(block: nn.Module, called: set[int]) -> Iterator[None]:
    own_forward = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        called.add(id(block))
        return own_forward(*args, **kwargs)

    block.forward = forward
    try:
        yield
    finally:
        restore_forward(block, own_forward)
