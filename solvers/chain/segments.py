"""Checkpointing by segments of the forward: inputs of a segment are retained, items inside it are recomputed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from remat_planner.solvers.chain.stages import Forward


def kept_by_segments(forward: Forward, begins: Sequence[int], whole: Collection[int] = ()) -> set[int]:
    """The items retained when the segments of ``forward.main`` begin at these positions (ascending, the first is 0).

    Segments whose number is in ``whole`` are not checkpointed: everything in them is retained.
    """
    segment = np.searchsorted(begins, np.arange(len(forward.main)), side="right") - 1
    whole = frozenset(whole)
    kept = set()
    for item, (place, last) in enumerate(zip(forward.place, forward.last, strict=True)):
        if place >= 0 and (segment[place] in whole or (last >= 0 and segment[last] != segment[place])):
            kept.add(item)
    # With a segment that retains everything go the results of its auxiliary nodes.
    problem = forward.problem
    starts = [forward.main[p] for p in begins]
    for node in np.flatnonzero(problem.auxiliary[: forward.start]).tolist():
        if max(0, int(np.searchsorted(starts, node, side="right")) - 1) in whole:
            kept.update(problem.writes[node])
    return kept


def module_segments(forward: Forward) -> list[tuple[list[int], list[bool]]]:
    """For each depth of nesting the positions in ``forward.main`` where segments begin, and which segments are blocks.

    A block is a numbered module ("layers.3"): at the first depth those that lie in no other, at the second those in a block of
    the first, and so on. Empty if the ops name no such modules.
    """
    problem = forward.problem
    paths = [problem.graph.ops[int(problem.ops[node])].module.split(".") for node in forward.main]
    divisions: list[tuple[list[int], list[bool]]] = []
    depth = 1
    while True:
        keys = _fill([_block(path, depth) for path in paths])
        if sum(_numbers(path) >= depth for path in paths) == 0:
            return divisions
        begins = [p for p in range(len(keys)) if p == 0 or keys[p] != keys[p - 1]]
        if len(begins) > 1:
            divisions.append((begins, [keys[p] is not None for p in begins]))
        depth += 1


def _numbers(path: list[str]) -> int:
    return sum(part.isdigit() for part in path)


def _block(path: list[str], depth: int) -> str | None:
    """The path up to its number at this depth, or to its last number if it has fewer; None if it has none."""
    places = [i for i, part in enumerate(path) if part.isdigit()]
    return ".".join(path[: places[min(depth, len(places)) - 1] + 1]) if places else None


def _fill(keys: list[str | None]) -> list[str | None]:
    """Give ops without a block that run between two ops of the same block to that block."""
    filled = list(keys)
    previous = 0
    for p, key in enumerate(keys):
        if key is None:
            continue
        if keys[previous] == key:
            filled[previous:p] = [key] * (p - previous)
        previous = p
    return filled
