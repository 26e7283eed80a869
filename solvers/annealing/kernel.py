"""Compiled inner loop of the annealing solver: an execution sequence under local change, with its live bytes at every run.

The sequence lies in a sparse array: *slots* hold *runs* (executions of a node) in order, with empty slots in between, so that a
place in the sequence is a number, putting a run in is cheap, and changing the live bytes over a stretch is one pass over
contiguous memory. A change of one run touches only the stretch between the last use before it and the next use after it.

Rules, which are those of ``schedules.simulate``: a read binds to the newest run of the producer; an item lives from a run to
the last read before the producer's next run; a lasting item's first instance lives to the end; replay bytes live from a node's
first to its last run where there is more than one.

Needs numba. Nothing in here knows about graphs or solvers: arrays in, arrays out. All of it is in one file, as the compiler's
cache on disk notices a change of the file that a function is in, but not of the files that it calls into.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

EMPTY = -(1 << 62)  # Live bytes of an empty slot: low enough that no change of a stretch brings it near a budget.
NOWHERE = 1 << 40  # A slot after every slot.
LONGEST_MOVE = 120  # Runs that one move may add, or remove.
_LONGEST_CHAIN = 100  # Runs that one insertion may add; most add one or two.
# Shares of the moves: take something out and put something else in, take out, shift; the rest put something in.
_SWAPS, _REMOVALS, _SHIFTS = 0.25, 0.2, 0.2

# Columns of Wiring.nodes. READS and WRITES are where the node's items begin in ``links``; the next column is where they end.
WORKSPACE, REPLAY, MADE, AGAIN, LATE, READS, _, WRITES, _ = range(9)
# Columns of Wiring.items. READERS is where the nodes that read it begin in ``links``; the next column is where they end.
SIZE, LASTING, PRODUCER, READERS, _ = range(5)
# Columns of State.run.
PLACE, NODE, INDEX = range(3)
# Columns of a move's log: 1 for a run taken out and 0 for one put in; the node; the run put in, or the one that followed.
KIND, LOGGED, RUN, PENDING = range(4)
# Entries of State.counters. Nothing may be put between the first runs of BARRIER_FROM and BARRIER_TO (nodes; -1: no barrier).
FREE, REMOVABLE, OVER, SLOTS, RUNS, BARRIER_FROM, BARRIER_TO, BEST_LENGTH = range(8)
# Entries of State.measures.
COST, BEST, WEIGHT = range(3)


class Wiring(NamedTuple):
    """What does not change, for n nodes and m items as ``Problem`` numbers them. Few wide tables are fast to pass and to read.

    Attributes:
        cost: [n] of each node, in any unit.
        nodes: [n, 9]: workspace, replay bytes, bytes of all that the node makes, whether it may run more than once, whether it
            may first run late, and where its reads and writes are in ``links``.
        items: [m, 5]: bytes, whether it is lasting, the node that makes it, and where its readers are in ``links``.
        links: items read and written by each node, and the nodes that read each item.
    """

    cost: NDArray[np.float64]
    nodes: Table
    items: Table
    links: Table


class State(NamedTuple):
    """The sequence.

    Attributes:
        held: [slots] the run in each slot, or -1.
        live: [slots] live bytes while it runs; about EMPTY where none is.
        runs: [n, 1 + most] for each node the number of its runs, then the runs in order.
        run: [runs, 3] slot and node of each run, and where it stands in ``removable`` (-1: it does not).
        free: [runs] stack of unused run numbers.
        removable: [runs] runs that a move may take out, in no order.
        counters: see above.
        measures: cost above one run of each node; that of ``best``; price of a byte over the budget.
        random: [1] state of the random generator.
        best: [runs] nodes of the cheapest sequence within the budget.
    """

    held: Table
    live: Table
    runs: Table
    run: Table
    free: Table
    removable: Table
    counters: Table
    measures: NDArray[np.float64]
    random: NDArray[np.uint64]
    best: Table


class _Compiler(Protocol):
    def __call__(self, function: Function, /) -> Function: ...


_outer: _Compiler = numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[assignment]
# Called from compiled code only: without an entrance from Python they compile in a third of the time.
_inner: _Compiler = numba.njit(  # type: ignore[call-overload]
    cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)


@_inner
def _uniform(random: NDArray[np.uint64]) -> float:
    """splitmix64: the same numbers in every thread, process and version."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * (1.0 / (1 << 53))


@_inner
def _below(random: NDArray[np.uint64], bound: int) -> int:
    return int(_uniform(random) * bound)


@_inner
def _last_use(items: Table, links: Table, runs: Table, run: Table, item: int, low: int, high: int) -> int:
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


@_inner
def _next_use(items: Table, links: Table, runs: Table, run: Table, item: int, low: int, high: int) -> int:
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


@_inner
def _serving(runs: Table, run: Table, v: int, slot: int) -> int:
    """Index of the newest run of ``v`` before ``slot``, or -1."""
    for i in range(runs[v, 0] - 1, -1, -1):
        if run[runs[v, 1 + i], PLACE] < slot:
            return i
    return -1


@_inner
def _slot_of(runs: Table, run: Table, v: int, i: int) -> int:
    return run[runs[v, 1 + i], PLACE] if i < runs[v, 0] else NOWHERE


@_inner
def _change(live: Table, low: int, high: int, delta: int, budget: int) -> int:
    """Add ``delta`` to the live bytes of slots low to high - 1; return by how much the excess over the budget grew."""
    stretch = live[low:high]  # Without index checks the loop becomes vector instructions.
    nothing = 0
    over = 0
    for k in range(stretch.size):
        before = stretch[k] - budget
        after = before + delta
        over += max(after, nothing) - max(before, nothing)
        stretch[k] = after + budget
    return over


@_inner
def _neighbour(held: Table, slots: int, slot: int, step: int) -> int:
    """The next occupied slot in a direction, -1 or NOWHERE past the ends."""
    slot += step
    while 0 <= slot < slots:
        if held[slot] >= 0:
            return slot
        slot += step
    return -1 if step < 0 else NOWHERE


@_outer
def spread(s: State) -> None:
    """Space the runs out evenly."""
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


@_inner
def _make_room(s: State, reader: int) -> int:
    """An empty slot just before a run; other runs may move."""
    while True:
        high = s.run[reader, PLACE]
        low = _neighbour(s.held, s.counters[SLOTS], high, -1)
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
        spread(s)


@_inner
def _insert(w: Wiring, s: State, v: int, reader: int, budget: int) -> int:
    """Run ``v`` once more, just before the run ``reader``; returns the new run. Its inputs must have been computed by then."""
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
        i = _serving(s.runs, s.run, u, k)
        if i == 0 and w.items[x, LASTING]:
            continue
        last = _last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], _slot_of(s.runs, s.run, u, i + 1))
        if last < k:
            over += _change(s.live, last + 1, k, w.items[x, SIZE], budget)
            here += w.items[x, SIZE]
    before = _serving(s.runs, s.run, v, k)
    following = _slot_of(s.runs, s.run, v, before + 1)
    for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
        x = w.links[q]
        if before < 0:
            here += w.items[x, SIZE]
            continue
        previous = s.run[s.runs[v, 1 + before], PLACE]
        last = _last_use(w.items, w.links, s.runs, s.run, x, previous, following)
        if last < k:
            here += w.items[x, SIZE]
        elif before == 0 and w.items[x, LASTING]:
            over += _change(s.live, k + 1, last + 1, w.items[x, SIZE], budget)
            here += w.items[x, SIZE]
        else:
            over += _change(
                s.live, _last_use(w.items, w.links, s.runs, s.run, x, previous, k) + 1, k, -w.items[x, SIZE], budget
            )
    if w.nodes[v, REPLAY] > 0:
        first = _slot_of(s.runs, s.run, v, 0)
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


@_inner
def _remove(w: Wiring, s: State, e: int, budget: int) -> int:
    """Take a run out; returns the run that came after it. It must not be the only one, nor be read if it is the first."""
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
        i = _serving(s.runs, s.run, u, k)
        if i == 0 and w.items[x, LASTING]:
            continue
        last = _last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], _slot_of(s.runs, s.run, u, i + 1))
        if last < k:
            over += _change(s.live, last + 1, k, -w.items[x, SIZE], budget)
    before = at - 1
    if before >= 0:
        previous = s.run[s.runs[v, 1 + before], PLACE]
        following = _slot_of(s.runs, s.run, v, at)
        for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
            x = w.links[q]
            last = _last_use(w.items, w.links, s.runs, s.run, x, previous, following)
            if last > k:
                if before == 0 and w.items[x, LASTING]:
                    over += _change(s.live, k + 1, last + 1, -w.items[x, SIZE], budget)
                else:
                    last = _last_use(w.items, w.links, s.runs, s.run, x, previous, k)
                    over += _change(s.live, last + 1, k, w.items[x, SIZE], budget)
    if w.nodes[v, REPLAY] > 0:
        first = _slot_of(s.runs, s.run, v, 0)
        last = s.run[s.runs[v, s.runs[v, 0]], PLACE]
        if k < first:
            over += _change(s.live, k + 1, first if s.runs[v, 0] > 1 else first + 1, -w.nodes[v, REPLAY], budget)
        elif k > last:
            over += _change(s.live, last + 1 if s.runs[v, 0] > 1 else last, k, -w.nodes[v, REPLAY], budget)
    s.free[s.counters[FREE]] = e
    s.counters[FREE] += 1
    i = s.run[e, INDEX]
    s.counters[REMOVABLE] -= 1
    moved = s.removable[s.counters[REMOVABLE]]
    s.removable[i] = moved
    s.run[moved, INDEX] = i
    s.run[e, INDEX] = -1
    s.counters[RUNS] -= 1
    s.counters[OVER] += over
    return s.held[_neighbour(s.held, s.counters[SLOTS], k, 1)]


@_inner
def _is_read(w: Wiring, s: State, e: int) -> bool:
    """Whether anything reads what this run makes before the node's next run."""
    v = s.run[e, NODE]
    k = s.run[e, PLACE]
    i = _serving(s.runs, s.run, v, k + 1)
    following = _slot_of(s.runs, s.run, v, i + 1)
    for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
        if _next_use(w.items, w.links, s.runs, s.run, w.links[q], k, following) < following:
            return True
    return False


@_inner
def _may_remove(w: Wiring, s: State, e: int) -> bool:
    v = s.run[e, NODE]
    if s.runs[v, 0] < 2:
        return False
    return s.runs[v, 1] != e or not _is_read(w, s, e)


@_inner
def _may_insert(w: Wiring, s: State, v: int, slot: int, spare: int) -> bool:
    """Whether ``v`` can run just before ``slot``: room in the arrays, its inputs computed by then, not inside the barrier."""
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


@_inner
def _random_run(s: State, n: int) -> int:
    """Any run: all removable ones, and the first one of each node."""
    x = _below(s.random, n + s.counters[REMOVABLE])
    return s.runs[x, 1] if x < n else s.removable[x - n]


@_inner
def _try_remove(w: Wiring, s: State, log: Table, budget: int) -> tuple[int, float]:
    """Take out a run, and then what only it was made for."""
    e = s.removable[_below(s.random, s.counters[REMOVABLE])]
    if not _may_remove(w, s, e):
        return 0, 0.0
    log[0, PENDING] = e
    waiting = 1
    length = 0
    gain = 0.0
    while waiting > 0 and length < LONGEST_MOVE:
        waiting -= 1
        e = log[waiting, PENDING]
        v = s.run[e, NODE]
        k = s.run[e, PLACE]
        if not _may_remove(w, s, e):
            continue
        log[length, RUN] = _remove(w, s, e, budget)
        log[length, KIND] = 1
        log[length, LOGGED] = v
        length += 1
        gain -= w.cost[v]
        for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
            u = w.items[w.links[q], PRODUCER]
            i = _serving(s.runs, s.run, u, k)
            if i < 0:
                continue
            source = s.runs[u, 1 + i]
            if s.run[source, INDEX] < 0 or waiting >= LONGEST_MOVE or _is_read(w, s, source):
                continue
            known = False
            for z in range(waiting):
                known |= log[z, PENDING] == source
            if not known:
                log[waiting, PENDING] = source
                waiting += 1
    return length, gain


@_inner
def _new_place(w: Wiring, s: State, e: int) -> int:
    """Another run to put ``e`` before: its next reader, the last use of one of its inputs, or a few places away. -1: none."""
    v = s.run[e, NODE]
    k = s.run[e, PLACE]
    r = _uniform(s.random)
    if r < 0.3:
        i = _serving(s.runs, s.run, v, k + 1)
        following = _slot_of(s.runs, s.run, v, i + 1)
        slot = following
        for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
            slot = min(slot, _next_use(w.items, w.links, s.runs, s.run, w.links[q], k, following))
    elif r < _SWAPS + _REMOVALS + _SHIFTS:
        inputs = w.nodes[v, READS + 1] - w.nodes[v, READS]
        if inputs == 0:
            return -1
        x = w.links[w.nodes[v, READS] + _below(s.random, inputs)]
        u = w.items[x, PRODUCER]
        i = _serving(s.runs, s.run, u, k)
        last = _last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], k)
        slot = _neighbour(s.held, s.counters[SLOTS], last, 1)
    else:
        steps = 1 + _below(s.random, 12)
        direction = -1 if _uniform(s.random) < 0.5 else 1
        slot = k
        for _ in range(steps + (direction > 0)):
            slot = _neighbour(s.held, s.counters[SLOTS], slot, direction)
            if slot < 0 or slot >= NOWHERE:
                return -1
    if slot < 0 or slot >= NOWHERE or slot == k or slot == _neighbour(s.held, s.counters[SLOTS], k, 1):
        return -1
    return s.held[slot]


@_inner
def _try_shift(w: Wiring, s: State, log: Table, budget: int) -> tuple[int, float]:
    """Move a run elsewhere."""
    e = s.removable[_below(s.random, s.counters[REMOVABLE])]
    v = s.run[e, NODE]
    reader = _new_place(w, s, e)
    if reader < 0 or not _may_insert(w, s, v, s.run[reader, PLACE], LONGEST_MOVE):
        return 0, 0.0
    if s.runs[v, 1] != e:
        log[0, RUN] = _remove(w, s, e, budget)
        log[0, KIND] = 1
        log[0, LOGGED] = v
        log[1, RUN] = _insert(w, s, v, reader, budget)
        log[1, KIND] = 0
        log[1, LOGGED] = v
        return 2, 0.0
    log[0, RUN] = _insert(w, s, v, reader, budget)
    log[0, KIND] = 0
    log[0, LOGGED] = v
    if not _may_remove(w, s, e):
        return 1, w.cost[v]
    log[1, RUN] = _remove(w, s, e, budget)
    log[1, KIND] = 1
    log[1, LOGGED] = v
    return 2, 0.0


@_inner
def _choose_insert(w: Wiring, s: State, n: int) -> tuple[int, int]:
    """A node and a run to put it before, or (-1, -1): what is idle across a high place, or any input of any run."""
    if s.counters[OVER] > 0 and _uniform(s.random) < 0.6:
        high = _random_run(s, n)
        for _ in range(5):
            e = _random_run(s, n)
            if s.live[s.run[e, PLACE]] > s.live[s.run[high, PLACE]]:
                high = e
        k = s.run[high, PLACE]
        for _ in range(30):
            x = _below(s.random, w.items.shape[0])
            v = w.items[x, PRODUCER]
            if not w.nodes[v, AGAIN]:
                continue
            i = _serving(s.runs, s.run, v, k)
            if i < 0:
                continue
            following = _slot_of(s.runs, s.run, v, i + 1)
            slot = _next_use(w.items, w.links, s.runs, s.run, x, k, following)
            if slot < following:
                return v, s.held[slot]
        return -1, -1
    reader = _random_run(s, n)
    v = s.run[reader, NODE]
    inputs = w.nodes[v, READS + 1] - w.nodes[v, READS]
    if inputs == 0:
        return -1, -1
    return w.items[w.links[w.nodes[v, READS] + _below(s.random, inputs)], PRODUCER], reader


@_inner
def _try_insert(w: Wiring, s: State, n: int, limit: float, log: Table, start: int, budget: int) -> tuple[int, float]:
    """Recompute something before a reader of it, and with some chance what it needs and is not there; log it from ``start``."""
    v, reader = _choose_insert(w, s, n)
    if v < 0 or w.cost[v] > limit or not _may_insert(w, s, v, s.run[reader, PLACE], LONGEST_MOVE):
        return 0, 0.0
    r = _uniform(s.random)
    chance = 0.0 if r < 0.4 else (1.0 if r < 0.6 else 0.5)
    most = 1 + int(_LONGEST_CHAIN * _uniform(s.random) ** 4)
    log[start, RUN] = _insert(w, s, v, reader, budget)
    log[start, KIND] = 0
    log[start, LOGGED] = v
    length = 1
    cost = w.cost[v]
    if chance == 0.0:
        return length, cost
    head = 0
    while head < length and length < most and cost <= limit:
        e = log[start + head, RUN]
        head += 1
        v = s.run[e, NODE]
        for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
            x = w.links[q]
            u = w.items[x, PRODUCER]
            if not w.nodes[u, AGAIN]:
                continue
            k = s.run[e, PLACE]
            i = _serving(s.runs, s.run, u, k)
            if i == 0 and w.items[x, LASTING]:
                continue
            following = _slot_of(s.runs, s.run, u, i + 1)
            if _next_use(w.items, w.links, s.runs, s.run, x, k, following) < following:
                continue  # It is alive here anyway.
            last = _last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], k)
            near = _neighbour(s.held, s.counters[SLOTS], last, 1)
            if near == k or _neighbour(s.held, s.counters[SLOTS], near, 1) == k:
                continue
            if length < most and _uniform(s.random) < chance and _may_insert(w, s, u, k, LONGEST_MOVE):
                log[start + length, RUN] = _insert(w, s, u, e, budget)
                log[start + length, KIND] = 0
                log[start + length, LOGGED] = u
                length += 1
                cost += w.cost[u]
    return length, cost


@_outer
def anneal(w: Wiring, s: State, moves: int, begin: float, end: float, growth: float, budget: int) -> int:
    """Make ``moves`` moves while the temperature falls from ``begin`` to ``end`` (same unit as the costs).

    ``measures[WEIGHT]`` is the price of a byte over the budget, multiplied by ``growth`` every 200 moves while over it, divided
    while within. The cheapest sequence within the budget so far is in ``best``, its cost above one run of each node in
    ``measures[BEST]``. Returns how many moves were accepted.
    """
    n = w.cost.size
    cooling = (end / begin) ** (200.0 / max(moves, 200))
    temperature = begin
    if w.items.shape[0] == 0:  # Nothing is made that could be made again.
        return 0
    log = np.empty((2 * LONGEST_MOVE + 2, 4), np.int64)
    accepted = 0
    for move in range(moves):
        if move % 200 == 0:
            s.measures[WEIGHT] *= growth if s.counters[OVER] > 0 else 1.0 / growth
            if move:
                temperature *= cooling
        weight = s.measures[WEIGHT]
        over = s.counters[OVER]
        r = _uniform(s.random)
        threshold = -temperature * math.log(_uniform(s.random) + 1e-300)
        if s.counters[REMOVABLE] > 0 and r < _SWAPS + _REMOVALS:
            length, cost = _try_remove(w, s, log, budget)
            if r < _SWAPS and length > 0:
                more, extra = _try_insert(w, s, n, threshold + weight * over - cost, log, length, budget)
                length += more
                cost += extra
        elif s.counters[REMOVABLE] > 0 and r < _SWAPS + _REMOVALS + _SHIFTS:
            length, cost = _try_shift(w, s, log, budget)
        else:
            length, cost = _try_insert(w, s, n, threshold + weight * over, log, 0, budget)
        if length == 0:
            continue
        if cost + weight * (s.counters[OVER] - over) <= threshold:
            accepted += 1
            s.measures[COST] += cost
            if s.counters[OVER] == 0 and s.measures[COST] < s.measures[BEST] - 1e-12 * n:
                s.measures[BEST] = s.measures[COST]
                store(s)
        else:
            for i in range(length - 1, -1, -1):
                if log[i, KIND] == 0:
                    _remove(w, s, log[i, RUN], budget)
                else:
                    _insert(w, s, log[i, LOGGED], log[i, RUN], budget)
    return accepted


@_outer
def store(s: State) -> None:
    """Keep the sequence as the best one."""
    i = 0
    for k in range(s.counters[SLOTS]):
        if s.held[k] >= 0:
            s.best[i] = s.run[s.held[k], NODE]
            i += 1
    s.counters[BEST_LENGTH] = i


def ready() -> bool:
    """Whether the kernel need not be compiled: this process has done it, or an earlier one whose cache is on disk."""
    if anneal.signatures:  # type: ignore[attr-defined]
        return True
    folder = Path(anneal.stats.cache_path)  # type: ignore[attr-defined]
    written = [file.stat().st_mtime for file in folder.glob(f"{Path(__file__).stem}.{anneal.__name__}-*.nbi")]
    return max(written, default=0.0) > Path(__file__).stat().st_mtime
