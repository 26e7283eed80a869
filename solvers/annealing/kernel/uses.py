"""Questions about a sequence: where an item is read, which run a read binds to, which runs may be removed or inserted."""

from __future__ import annotations

from remat_planner.solvers.annealing.kernel.arrays import (
    AGAIN,
    BARRIER_FROM,
    BARRIER_TO,
    FREE,
    LATE,
    NODE,
    NOWHERE,
    PLACE,
    PRODUCER,
    READERS,
    READS,
    WRITES,
    SequenceState,
    Table,
    Wiring,
)
from remat_planner.solvers.compiling import inner


@inner
def last_use(items: Table, links: Table, runs: Table, run: Table, item: int, low: int, high: int) -> int:
    """The last slot in (low, high) that reads ``item``, or ``low``."""
    best = low
    for q in range(items[item, READERS], items[item, READERS + 1]):
        v = links[q]
        for i in range(runs[v, 0] - 1, -1, -1):
            k = run[runs[v, 1 + i], PLACE]
            if k < high:
                if k > best:
                    best = k
                break
    return best


@inner
def next_use(items: Table, links: Table, runs: Table, run: Table, item: int, low: int, high: int) -> int:
    """The first slot in (low, high) that reads ``item``, or ``high``."""
    best = high
    for q in range(items[item, READERS], items[item, READERS + 1]):
        v = links[q]
        for i in range(runs[v, 0]):
            k = run[runs[v, 1 + i], PLACE]
            if k > low:
                if k < best:
                    best = k
                break
    return best


@inner
def serving(runs: Table, run: Table, v: int, slot: int) -> int:
    """Index of the newest run of ``v`` before ``slot``, or -1."""
    for i in range(runs[v, 0] - 1, -1, -1):
        if run[runs[v, 1 + i], PLACE] < slot:
            return i
    return -1


@inner
def slot_of(runs: Table, run: Table, v: int, i: int) -> int:
    return run[runs[v, 1 + i], PLACE] if i < runs[v, 0] else NOWHERE


@inner
def neighbour(held: Table, slots: int, slot: int, step: int) -> int:
    """The next occupied slot in a direction, -1 or NOWHERE past the ends."""
    slot += step
    while 0 <= slot < slots:
        if held[slot] >= 0:
            return slot
        slot += step
    return -1 if step < 0 else NOWHERE


@inner
def is_read(w: Wiring, s: SequenceState, e: int) -> bool:
    """Whether the result of this run is read before the node's next run."""
    v = s.run[e, NODE]
    k = s.run[e, PLACE]
    i = serving(s.runs, s.run, v, k + 1)
    following = slot_of(s.runs, s.run, v, i + 1)
    for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
        if next_use(w.items, w.links, s.runs, s.run, w.links[q], k, following) < following:
            return True
    return False


@inner
def may_remove(w: Wiring, s: SequenceState, e: int) -> bool:
    v = s.run[e, NODE]
    if s.runs[v, 0] < 2:
        return False
    return s.runs[v, 1] != e or not is_read(w, s, e)


@inner
def may_insert(w: Wiring, s: SequenceState, v: int, slot: int, spare: int) -> bool:
    """Whether ``v`` can run just before ``slot``: the arrays have room, its inputs are computed, no barrier."""
    if not w.nodes[v, AGAIN] or s.runs[v, 0] >= s.runs.shape[1] - 2 or s.counters[FREE] <= spare:
        return False
    if slot <= s.run[s.runs[v, 1], PLACE] and not w.nodes[v, LATE]:
        return False
    if s.counters[BARRIER_FROM] >= 0:
        opens, closes = s.runs[s.counters[BARRIER_FROM], 1], s.runs[s.counters[BARRIER_TO], 1]
        if s.run[opens, PLACE] < slot <= s.run[closes, PLACE]:
            return False
    for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
        if s.run[s.runs[w.items[w.links[q], PRODUCER], 1], PLACE] >= slot:
            return False
    return True
