"""What solvers with the table of ``persistent_dp`` share: views short enough for it, its slots, the actions of an entry."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.chain.actions import Action
from remat_planner.solvers.chain.persistent_dp import Stages, steps
from remat_planner.solvers.chain.stages import Chain, Forward, chain_at, chains

# Slots that the memory is divided into, at most: finer slots waste less memory and take more time.
_MOST_SLOTS = 1_000


def short_views(forward: Forward, most_stages: int) -> list[Chain]:
    """The views of at most so many stages; if all are longer, the first with neighbouring stages merged."""
    views = list(chains(forward))
    short = [view for view in views if len(view.stages) <= most_stages]
    if short or not views:
        return short
    position = {node: p for p, node in enumerate(forward.main)}
    stages = views[0].stages
    begins = [stages[len(stages) * i // most_stages].nodes[0] for i in range(1, most_stages)]
    return [chain_at(forward, [position[node] for node in begins])]


def slots_of(stages: Stages, room: int, beyond: float, most_entries: int) -> tuple[int, int]:
    """Bytes of a slot, and the number of slots of a table for ``room`` bytes and the fraction ``beyond``."""
    most = max(100, min(_MOST_SLOTS, most_entries // len(stages.inputs) ** 2))
    sizes = np.concatenate([stages.inputs, stages.saved.ravel(), stages.backward_needs.ravel(), stages.forward_needs.ravel()])
    common = gcd(*(int(size) for size in np.unique(sizes) if size)) or 1
    unit = common * -(-room // (common * most))
    return unit, int(room * (1 + beyond)) // unit + 1


def persistent_actions(stages: Stages, best: NDArray[np.float32], a: int, b: int, slots: int) -> Iterator[Action]:
    """The actions of ``best[a, b, slots]``, with the input of stage a retained.

    Raises:
        ValueError: no schedule fits that many slots.
    """
    waiting: list[int] = []  # saved stages whose backward is still to come
    for (kind, stage, which), _, last in steps(stages, best, a, b, slots):
        while waiting and waiting[-1] > stage:
            yield Action("backward", waiting.pop())
        if kind == "forward":
            yield from (Action("forward", i) for i in range(stage, which))
            yield Action("snapshot", which)
        else:
            yield Action("save", stage, which)
            waiting.append(stage)
            if stage < last:
                yield Action("snapshot", stage + 1)
    while waiting:
        yield Action("backward", waiting.pop())
