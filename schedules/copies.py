"""The copies of a schedule in a pool, laid out in one buffer.

A pool is one buffer, allocated once and used again in every step. Each copy has a fixed place in it, the lowest that is free
when it is stored (first fit). Copies that are loaded in the reverse order of their stores, as in a backward, leave no gaps.
The bytes of a pool are those of the buffer, gaps included, because that is what the budget of the pool must cover.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules.copy_ledger import StoredCopy
from remat_planner.schedules.pieces import live_bytes
from remat_planner.schedules.transfers import Pool


@dataclass(frozen=True, slots=True)
class PoolCopies:
    """The copies in one pool, in order of their stores; all arrays are int64 of shape (copies,).

    Attributes:
        pool: the pool.
        storage: index into ``Graph.storages``.
        offset: place in the buffer, in bytes.
        bytes: size in the buffer, a multiple of ``pool.block``.
        store: the step that stores the copy.
        release: the step that waits for the store.
        last: the last step that needs the copy; its place is free after that.
    """

    pool: Pool
    storage: np.ndarray
    offset: np.ndarray
    bytes: np.ndarray
    store: np.ndarray
    release: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, pool: Pool, copies: Iterable[StoredCopy]) -> PoolCopies:
        """Lay out those of ``copies`` that are in ``pool``."""
        chosen = [copy for copy in copies if copy.transfer.pool.name == pool.name]
        sizes = [pool.rounded(copy.transfer.bytes) for copy in chosen]
        columns = (
            [copy.transfer.storage for copy in chosen],
            _first_fit(chosen, sizes),
            sizes,
            [copy.store for copy in chosen],
            [copy.release for copy in chosen],
            [copy.last for copy in chosen],
        )
        return cls(pool, *(np.array(column, dtype=np.int64) for column in columns))

    @property
    def peak_bytes(self) -> int:
        """Bytes of the buffer."""
        return int((self.offset + self.bytes).max(initial=0))

    def live_bytes(self, steps: int) -> np.ndarray:
        """int64 array of shape (steps,): bytes of the copies that are in the pool while each step runs."""
        return live_bytes(self.store, self.last, self.bytes, steps)


def _first_fit(copies: list[StoredCopy], sizes: list[int]) -> list[int]:
    """The offset of each copy: the lowest that is free from its store to its last use."""
    gaps: list[tuple[int, int]] = []  # free places (start, end) below ``top``, ascending
    top = 0
    in_use: list[tuple[int, int, int]] = []  # heap of (last step, start, end)
    offsets = []
    for copy, size in zip(copies, sizes, strict=True):
        while in_use and in_use[0][0] < copy.store:
            _, start, end = heapq.heappop(in_use)
            insort(gaps, (start, end))
            gaps = _joined(gaps)
        if gaps and gaps[-1][1] == top:
            top = gaps.pop()[0]
        place = next((k for k, (start, end) in enumerate(gaps) if end - start >= size), None)
        if place is None:
            start, top = top, top + size
        else:
            start, end = gaps[place]
            gaps[place : place + 1] = [(start + size, end)] if end - start > size else []
        offsets.append(start)
        heapq.heappush(in_use, (copy.last, start, start + size))
    return offsets


def _joined(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in gaps:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
