"""A model of PyTorch's caching allocator for GPUs: what it reserves from the driver for a sequence of allocations and frees.

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings, for one stream and a device so large that
the allocator never returns cached segments. It rounds requests up to 512 bytes, cuts those of up to 1 MiB from segments of
2 MiB and those below 10 MiB from segments of 20 MiB, and gives larger ones a segment of their own, rounded up to 2 MiB. A
request gets the smallest free block that is large enough. The allocator splits that block if the remainder is at least 512
bytes (small requests) or more than 1 MiB (large ones), and otherwise hands it out whole. Free neighbours merge. With expandable
segments each pool is one segment that grows by pages of 2 or 20 MiB.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

MIB = 2**20
SMALL = MIB
"""Largest request of the small pool in bytes (kSmallSize), and the largest remainder that a large block is not split for."""

_GRANULARITY = 512  # bytes that every request is rounded up to (kMinBlockSize)
_SMALL_SEGMENT = 2 * MIB  # kSmallBuffer
_LARGE_SEGMENT = 20 * MIB  # kLargeBuffer
_OWN_SEGMENT = 10 * MIB  # requests of this size or more have a segment of their own (kMinLargeAlloc)
_SEGMENT_ROUNDING = 2 * MIB  # of these segments (kRoundLarge)


@dataclass(eq=False)
class Block:
    """A contiguous part of a segment, ``size`` bytes at ``address``; ``before`` and ``after`` are its neighbours there."""

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
    """The allocator of one device.

    Attributes:
        reserved: bytes reserved from the driver; this is also their peak, since the allocator returns nothing.
        allocated: bytes of the blocks in use, a multiple of 512.
        peak_allocated: highest ``allocated`` so far.
    """

    def __init__(self, *, expandable_segments: bool = False) -> None:
        self.reserved = 0
        self.allocated = 0
        self.peak_allocated = 0
        self._expandable = expandable_segments
        self._pools = {True: _Pool(), False: _Pool()}
        self._next_address = 0

    def allocate(self, size: int) -> Block:
        """Hand out a block of at least ``size`` bytes."""
        size = max(_rounded_up(size, _GRANULARITY), _GRANULARITY)
        small = size <= SMALL
        block = self._cached(size, small) or (
            self._expanded(size, small) if self._expandable else self._in_new_segment(size, small)
        )
        rest = block.size - size
        if rest >= _GRANULARITY if small or self._expandable else rest > SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Free a block from ``allocate``, and merge it with its free neighbours."""
        self.allocated -= block.size
        block.free = True
        pool = self._pools[block.small]
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._remove_from_pool(neighbour)
                block.address = min(block.address, neighbour.address)
                block.size += neighbour.size
                if neighbour is block.before:
                    self._link(neighbour.before, block)
                else:
                    self._link(block, neighbour.after)
                if pool.last is neighbour:
                    pool.last = block
        self._add_to_pool(block)

    def _cached(self, size: int, small: bool) -> Block | None:
        free = self._pools[small].free
        place = bisect.bisect_left(free, (size, -1), key=lambda entry: entry[:2])
        return free.pop(place)[2] if place < len(free) else None

    def _in_new_segment(self, size: int, small: bool) -> Block:
        whole = _SMALL_SEGMENT if small else _LARGE_SEGMENT if size < _OWN_SEGMENT else _rounded_up(size, _SEGMENT_ROUNDING)
        return self._reserve(whole, small)

    def _expanded(self, size: int, small: bool) -> Block:
        """The last block of the pool's expandable segment, grown to ``size``."""
        pool, page = self._pools[small], _SMALL_SEGMENT if small else _LARGE_SEGMENT
        last = pool.last
        if last is not None and last.free:
            self._remove_from_pool(last)
            more = _rounded_up(size - last.size, page)
            last.size += more
            self.reserved += more
            return last
        block = self._reserve(_rounded_up(size, page), small)
        self._link(last, block)
        pool.last = block
        return block

    def _reserve(self, size: int, small: bool) -> Block:
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
        self._add_to_pool(rest)

    def _link(self, one: Block | None, other: Block | None) -> None:
        if one is not None:
            one.after = other
        if other is not None:
            other.before = one

    def _add_to_pool(self, block: Block) -> None:
        bisect.insort(self._pools[block.small].free, (block.size, block.address, block), key=lambda entry: entry[:2])

    def _remove_from_pool(self, block: Block) -> None:
        free = self._pools[block.small].free
        del free[bisect.bisect_left(free, (block.size, block.address), key=lambda entry: entry[:2])]


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
