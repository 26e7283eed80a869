"""One way to treat a block, and its seconds and bytes: the exact live bytes of its own items follow from a run on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules import live_bytes
from remat_planner.solvers.problem import Ints
from remat_planner.solvers.two_level.pattern import BlockPattern

# Bytes below all others: marks nodes before which nothing is recomputed.
_NEVER = -(1 << 60)


@dataclass(frozen=True, eq=False)
class BlockOption:
    """One way to treat a block.

    Attributes:
        kept: own items of the pattern that are retained until the backward reads them.
        saved: bytes retained between the block's forward and its stretch of the backward.
        seconds: of recomputation.
        forward: int64[nodes], live bytes of own items while each node first runs.
        window: int64[length], live bytes of own items, and of others retained for them, while each node of the stretch runs.
        recompute_peak: int64[length], peak of such bytes, workspace included, while inputs of that node are recomputed.
    """

    kept: tuple[int, ...]
    saved: int
    seconds: float
    forward: Ints
    window: Ints
    recompute_peak: Ints


def option_for(pattern: BlockPattern, kept: Sequence[int]) -> BlockOption:
    """Seconds and bytes of a block that keeps these items. Others are recomputed just before they are needed, then retained."""
    sequence = _stretch(pattern, set(kept))
    uses, written, last_run, outer_use = _events(pattern, sequence, kept)
    total = len(sequence)
    pieces: list[tuple[int, int, int]] = []  # first and last position at which bytes are live, and the bytes
    useful = []
    for item, births in written.items():
        for birth, following in zip(births, [*births[1:], total], strict=True):
            end = max((k for k in uses.get(item, []) if birth < k <= following), default=birth)
            if birth < 0 <= end:
                useful.append(item)
            if end >= 0:
                pieces.append((max(birth, 0), end, pattern.bytes[item]))
    # Random states, and outer items that would be gone by then, are retained for recomputation.
    retained = [(0, k, pattern.replay[node]) for node, k in last_run.items()]
    retained += [(0, k, pattern.outer_bytes[o]) for o, k in outer_use.items() if pattern.outer_until[o] < sequence[k][0]]
    begins, ends, sizes = np.array(pieces + retained, dtype=np.int64).reshape(-1, 3).T
    levels = live_bytes(begins, ends, sizes, total)
    saved = sum(pattern.bytes[item] for item in useful) + sum(size for _, _, size in retained)
    recompute_peak = np.full(len(pattern.window), _NEVER, dtype=np.int64)
    for k, (offset, node) in enumerate(sequence):
        if node >= 0:
            level = int(levels[k]) + pattern.workspace[node] + pattern.outer_bytes_written[node]
            recompute_peak[offset] = max(int(recompute_peak[offset]), level)
    return BlockOption(
        kept=tuple(sorted(useful)),
        saved=saved,
        seconds=sum(pattern.cost[node] for _, node in sequence if node >= 0),
        forward=_forward_levels(pattern, set(useful)),
        window=levels[[k for k, (_, node) in enumerate(sequence) if node < 0]],
        recompute_peak=recompute_peak,
    )


def _events(
    pattern: BlockPattern, sequence: Sequence[tuple[int, int]], kept: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, list[int]], dict[int, int], dict[int, int]]:
    """Positions in the sequence: reads and writes of each own item, last run of each node, last read of each outer item.

    Kept items are written at -1.
    """
    uses: dict[int, list[int]] = {}
    written: dict[int, list[int]] = {item: [-1] for item in kept}
    last_run: dict[int, int] = {}
    outer_use: dict[int, int] = {}
    for k, (offset, node) in enumerate(sequence):
        for item in pattern.window[offset] if node < 0 else pattern.reads[node]:
            uses.setdefault(item, []).append(k)
        if node >= 0:
            last_run[node] = k
            for outer in pattern.outer_reads[node]:
                outer_use[outer] = k
            for item in pattern.writes[node]:
                written.setdefault(item, []).append(k)
    return uses, written, last_run, outer_use


def _stretch(pattern: BlockPattern, kept: set[int]) -> list[tuple[int, int]]:
    """The backward through the block: pairs (node of the stretch, node recomputed just before it; -1 for itself)."""
    available = set(kept)
    sequence: list[tuple[int, int]] = []
    for offset, read in enumerate(pattern.window):
        missing: set[int] = set()
        pending = [pattern.producer[item] for item in read if item not in available]
        while pending:
            node = pending.pop()
            if node not in missing:
                missing.add(node)
                pending.extend(pattern.producer[item] for item in pattern.reads[node] if item not in available)
        for node in sorted(missing):
            sequence.append((offset, node))
            available.update(pattern.writes[node])
        sequence.append((offset, -1))
    return sequence


def _forward_levels(pattern: BlockPattern, kept: set[int]) -> Ints:
    """Live bytes of own items while each node first runs."""
    n = len(pattern.cost)
    last = list(pattern.producer)
    for node, read in enumerate(pattern.reads):
        for item in read:
            last[item] = node
    birth, size = np.array(pattern.producer, dtype=np.int64), np.array(pattern.bytes, dtype=np.int64)
    death = np.array([n - 1 if item in kept else node for item, node in enumerate(last)], dtype=np.int64)
    return live_bytes(birth, death, size, n)
