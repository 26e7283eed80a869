"""Putting a run into a sequence and taking one out, with the live bytes of every run kept up to date."""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.annealing.kernel.arrays import (
    EMPTY,
    FREE,
    INDEX,
    LASTING,
    MADE,
    NODE,
    OVER,
    PLACE,
    PRODUCER,
    READS,
    REMOVABLE,
    REPLAY,
    RUNS,
    SIZE,
    SLOTS,
    WORKSPACE,
    WRITES,
    SequenceState,
    Table,
    Wiring,
)
from remat_planner.solvers.annealing.kernel.uses import last_use, neighbour, serving, slot_of
from remat_planner.solvers.compiling import inner


@inner
def insert(w: Wiring, s: SequenceState, v: int, reader: int, budget: int) -> int:
    """Insert a run of ``v`` just before the run ``reader``; return the new run. Its inputs must have been computed by then."""
    k = _make_room(s, reader)
    follower = s.run[reader, PLACE]
    b = s.run[reader, NODE]
    crossing = s.live[follower] - w.nodes[b, MADE] - w.nodes[b, WORKSPACE]
    if w.nodes[b, REPLAY] > 0 and s.runs[b, 0] > 1 and s.runs[b, 1] == reader:
        crossing -= w.nodes[b, REPLAY]
    s.counters[FREE] -= 1
    e = s.free[s.counters[FREE]]
    s.live[k] = EMPTY  # Not yet part of the excess.
    here = crossing + w.nodes[v, WORKSPACE]
    over = 0
    for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
        x = w.links[q]
        u = w.items[x, PRODUCER]
        i = serving(s.runs, s.run, u, k)
        if i == 0 and w.items[x, LASTING]:
            continue
        last = last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], slot_of(s.runs, s.run, u, i + 1))
        if last < k:
            over += _change(s.live, last + 1, k, w.items[x, SIZE], budget)
            here += w.items[x, SIZE]
    before = serving(s.runs, s.run, v, k)
    following = slot_of(s.runs, s.run, v, before + 1)
    for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
        x = w.links[q]
        if before < 0:
            here += w.items[x, SIZE]
            if w.items[x, LASTING]:  # The new instance lives to the end, that of the former first run only to its last use.
                last = last_use(w.items, w.links, s.runs, s.run, x, following, slot_of(s.runs, s.run, v, 1))
                over += _change(s.live, k + 1, last + 1, w.items[x, SIZE], budget)
            continue
        previous = s.run[s.runs[v, 1 + before], PLACE]
        last = last_use(w.items, w.links, s.runs, s.run, x, previous, following)
        if last < k:
            here += w.items[x, SIZE]
        elif before == 0 and w.items[x, LASTING]:
            over += _change(s.live, k + 1, last + 1, w.items[x, SIZE], budget)
            here += w.items[x, SIZE]
        else:
            over += _change(s.live, last_use(w.items, w.links, s.runs, s.run, x, previous, k) + 1, k, -w.items[x, SIZE], budget)
    if w.nodes[v, REPLAY] > 0:
        first = slot_of(s.runs, s.run, v, 0)
        last = s.run[s.runs[v, s.runs[v, 0]], PLACE]
        if k < first:
            over += _change(s.live, k + 1, first if s.runs[v, 0] > 1 else first + 1, w.nodes[v, REPLAY], budget)
            here += w.nodes[v, REPLAY]
        elif k > last:
            over += _change(s.live, last + 1 if s.runs[v, 0] > 1 else last, k, w.nodes[v, REPLAY], budget)
            here += w.nodes[v, REPLAY]
    s.held[k] = e
    s.live[k] = here
    s.run[e, PLACE] = k
    s.run[e, NODE] = v
    for i in range(s.runs[v, 0], before + 1, -1):
        s.runs[v, 1 + i] = s.runs[v, i]
    s.runs[v, 2 + before] = e
    s.runs[v, 0] += 1
    s.run[e, INDEX] = s.counters[REMOVABLE]
    s.removable[s.counters[REMOVABLE]] = e
    s.counters[REMOVABLE] += 1
    s.counters[RUNS] += 1
    s.counters[OVER] += over + max(here - budget, 0)
    return e


@inner
def remove(w: Wiring, s: SequenceState, e: int, budget: int) -> int:
    """Remove a run; return the run that came after it. It must not be the only one, nor be read if it is the first."""
    v = s.run[e, NODE]
    k = s.run[e, PLACE]
    at = 0
    while s.runs[v, 1 + at] != e:
        at += 1
    for i in range(at, s.runs[v, 0] - 1):
        s.runs[v, 1 + i] = s.runs[v, 2 + i]
    s.runs[v, 0] -= 1
    over = -max(s.live[k] - budget, 0)
    s.held[k] = -1
    s.live[k] = EMPTY
    for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
        x = w.links[q]
        u = w.items[x, PRODUCER]
        i = serving(s.runs, s.run, u, k)
        if i == 0 and w.items[x, LASTING]:
            continue
        last = last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], slot_of(s.runs, s.run, u, i + 1))
        if last < k:
            over += _change(s.live, last + 1, k, -w.items[x, SIZE], budget)
    before = at - 1
    following = slot_of(s.runs, s.run, v, at)
    for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
        x = w.links[q]
        if before < 0:
            if w.items[x, LASTING]:  # The instance of the next run lives to the end instead.
                last = last_use(w.items, w.links, s.runs, s.run, x, following, slot_of(s.runs, s.run, v, 1))
                over += _change(s.live, k + 1, last + 1, -w.items[x, SIZE], budget)
        else:
            previous = s.run[s.runs[v, 1 + before], PLACE]
            last = last_use(w.items, w.links, s.runs, s.run, x, previous, following)
            if last > k:
                if before == 0 and w.items[x, LASTING]:
                    over += _change(s.live, k + 1, last + 1, -w.items[x, SIZE], budget)
                else:
                    last = last_use(w.items, w.links, s.runs, s.run, x, previous, k)
                    over += _change(s.live, last + 1, k, w.items[x, SIZE], budget)
    if w.nodes[v, REPLAY] > 0:
        first = slot_of(s.runs, s.run, v, 0)
        last = s.run[s.runs[v, s.runs[v, 0]], PLACE]
        if k < first:
            over += _change(s.live, k + 1, first if s.runs[v, 0] > 1 else first + 1, -w.nodes[v, REPLAY], budget)
        elif k > last:
            over += _change(s.live, last + 1 if s.runs[v, 0] > 1 else last, k, -w.nodes[v, REPLAY], budget)
    s.free[s.counters[FREE]] = e
    s.counters[FREE] += 1
    unlist(s, e)
    s.counters[RUNS] -= 1
    s.counters[OVER] += over
    return s.held[neighbour(s.held, s.counters[SLOTS], k, 1)]


@inner
def unlist(s: SequenceState, e: int) -> None:
    """Take a run out of those that a move may remove, if it is one of them."""
    i = s.run[e, INDEX]
    if i < 0:
        return
    s.counters[REMOVABLE] -= 1
    moved = s.removable[s.counters[REMOVABLE]]
    s.removable[i] = moved
    s.run[moved, INDEX] = i
    s.run[e, INDEX] = -1


@inner
def _make_room(s: SequenceState, reader: int) -> int:
    """An empty slot just before a run; other runs may move."""
    while True:
        high = s.run[reader, PLACE]
        low = neighbour(s.held, s.counters[SLOTS], high, -1)
        if high - low > 1:
            return (low + high) // 2 if low >= 0 else high - 1
        right = high + 1
        left = low - 1
        for _ in range(48):
            if right < s.counters[SLOTS] and s.held[right] < 0:
                for k in range(right, high, -1):
                    s.held[k] = s.held[k - 1]
                    s.live[k] = s.live[k - 1]
                    s.run[s.held[k], PLACE] = k
                s.held[high] = -1
                return high
            if left >= 0 and s.held[left] < 0:
                for k in range(left, high - 1):
                    s.held[k] = s.held[k + 1]
                    s.live[k] = s.live[k + 1]
                    s.run[s.held[k], PLACE] = k
                s.held[high - 1] = -1
                return high - 1
            right += 1
            left -= 1
        _spread(s)


@inner
def _spread(s: SequenceState) -> None:
    """Space the runs evenly."""
    length = s.counters[RUNS]
    order = np.empty(length, np.int64)
    live = np.empty(length, np.int64)
    i = 0
    for k in range(s.counters[SLOTS]):
        if s.held[k] >= 0:
            order[i] = s.held[k]
            live[i] = s.live[k]
            i += 1
    slots = min(2 * length + 64, s.held.size)
    s.counters[SLOTS] = slots
    s.held[:] = -1
    s.live[:] = EMPTY
    for i in range(length):
        k = (i * slots) // length
        s.held[k] = order[i]
        s.live[k] = live[i]
        s.run[order[i], PLACE] = k


@inner
def _change(live: Table, low: int, high: int, delta: int, budget: int) -> int:
    """Add ``delta`` to the live bytes of slots low to high - 1; return by how much the excess over the budget grew."""
    stretch = live[low:high]  # A slice needs no index checks, so the loop becomes vector instructions.
    nothing = 0
    over = 0
    for k in range(stretch.size):
        before = stretch[k] - budget
        after = before + delta
        over += max(after, nothing) - max(before, nothing)
        stretch[k] = after + budget
    return over
