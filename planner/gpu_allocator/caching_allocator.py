"""PyTorch's caching allocator for GPUs on paper: what it reserves from the driver for a sequence of allocations and frees.

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings, for one stream and a device large enough
that nothing cached is given back. Requests are rounded up to 512 bytes. Up to 1 MiB they are cut from segments of 2 MiB, below
10 MiB from segments of 20 MiB, and larger ones get a segment of their own, rounded up to 2 MiB. The smallest free block that is
large enough is taken; what is left of it stays usable where it is at least 512 bytes (small) or more than 1 MiB (large).
Neighbours that are free become one. With expandable segments each pool is one segment that grows by pages of 2 or 20 MiB.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from remat_planner.tracer.costs import BLOCK

MIB = 2**20
SMALL = MIB  # largest request of the small pool
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT = 10 * MIB  # from this size a request has a segment of its own
SEGMENT_ROUNDING = 2 * MIB


@dataclass(eq=False)
class Block:
    """A piece of a segment; ``before`` and ``after`` are its neighbours in it."""

    address: int
    size: int
    small: bool
    free: bool = True
    before: Block | None = None
    after: Block | None = None


@dataclass
class _Pool:
    free: list[tuple[int, int, Block]] = field(default_factory=list)  # (size, address, block), sorted
    last: Block | None = None  # of the expandable segment


class CachingAllocator:
    """One device's allocator.

    Attributes:
        reserved: bytes taken from the driver so far; nothing is given back, so this is also their peak.
        allocated: bytes handed out now, in multiples of 512.
        peak_allocated: highest ``allocated``.
    """

    def __init__(self, *, expandable_segments: bool = False) -> None:
        self.reserved = 0
        self.allocated = 0
        self.peak_allocated = 0
        self._expandable = expandable_segments
        self._pools = {True: _Pool(), False: _Pool()}
        self._next_address = 0

    def allocate(self, size: int) -> Block:
        """Hand out ``size`` bytes."""
        size = max(_up(size, BLOCK), BLOCK)
        small = size <= SMALL
        block = self._taken(size, small) or (self._grown(size, small) if self._expandable else self._segment(size, small))
        rest = block.size - size
        if rest >= BLOCK if small or self._expandable else rest > SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Take back what ``allocate`` handed out."""
        self.allocated -= block.size
        block.free = True
        pool = self._pools[block.small]
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._forget(neighbour)
                block.address = min(block.address, neighbour.address)
                block.size += neighbour.size
                if neighbour is block.before:
                    self._link(neighbour.before, block)
                else:
                    self._link(block, neighbour.after)
                if pool.last is neighbour:
                    pool.last = block
        self._remember(block)

    def _taken(self, size: int, small: bool) -> Block | None:
        free = self._pools[small].free
        place = bisect.bisect_left(free, (size, -1), key=lambda entry: entry[:2])
        return free.pop(place)[2] if place < len(free) else None

    def _segment(self, size: int, small: bool) -> Block:
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT if size < OWN_SEGMENT else _up(size, SEGMENT_ROUNDING)
        return self._mapped(whole, small)

    def _grown(self, size: int, small: bool) -> Block:
        """The last block of the pool's segment, made large enough."""
        pool, page = self._pools[small], SMALL_SEGMENT if small else LARGE_SEGMENT
        last = pool.last
        if last is not None and last.free:
            self._forget(last)
            more = _up(size - last.size, page)
            last.size += more
            self.reserved += more
            return last
        block = self._mapped(_up(size, page), small)
        self._link(last, block)
        pool.last = block
        return block

    def _mapped(self, size: int, small: bool) -> Block:
        block = Block(self._next_address, size, small)
        self._next_address += size
        self.reserved += size
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.small)
        block.size = size
        self._link(rest, block.after)
        self._link(block, rest)
        pool = self._pools[block.small]
        if pool.last is block:
            pool.last = rest
        self._remember(rest)

    def _link(self, one: Block | None, other: Block | None) -> None:
        if one is not None:
            one.after = other
        if other is not None:
            other.before = one

    def _remember(self, block: Block) -> None:
        bisect.insort(self._pools[block.small].free, (block.size, block.address, block), key=lambda entry: entry[:2])

    def _forget(self, block: Block) -> None:
        free = self._pools[block.small].free
        del free[bisect.bisect_left(free, (block.size, block.address), key=lambda entry: entry[:2])]


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
