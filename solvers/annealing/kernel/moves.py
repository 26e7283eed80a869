"""The moves of the annealing: each changes the sequence at once and logs what it did, so that it can be undone."""

from __future__ import annotations

from remat_planner.solvers.annealing.kernel.arrays import (
    AGAIN,
    INDEX,
    INSERTED,
    KIND,
    LASTING,
    LATE,
    LOGGED,
    NODE,
    NOWHERE,
    OVER,
    PENDING,
    PLACE,
    PRODUCER,
    READS,
    REMOVABLE,
    REMOVED,
    RUN,
    SLOTS,
    WRITES,
    MoveMix,
    SequenceState,
    Table,
    Wiring,
)
from remat_planner.solvers.annealing.kernel.edits import insert, remove, unlist
from remat_planner.solvers.annealing.kernel.splitmix import below, uniform
from remat_planner.solvers.annealing.kernel.uses import (
    is_read,
    last_use,
    may_insert,
    may_remove,
    neighbour,
    next_use,
    serving,
    slot_of,
)
from remat_planner.solvers.compiling import inner

# Runs that one move may insert, or remove.
LONGEST_MOVE = 120
# Runs that one insertion may add; most add one or two.
_LONGEST_CHAIN = 100
# Where a shift puts a run: before the reader of its result, or (up to this sum) after the last use of one of its inputs. The
# rest go up to _FARTHEST places away.
_TO_READER, _TO_READER_OR_INPUT = 0.3, 0.65
_FARTHEST = 12
# While over the budget, an insertion looks for the place with most live bytes among so many random ones, then for an item that
# is idle there among so many.
_PLACES, _ITEMS = 6, 30


@inner
def try_remove(w: Wiring, s: SequenceState, mix: MoveMix, log: Table, budget: int) -> tuple[int, float]:
    """Remove a run, and then the runs that only it was inserted for; the number of edits, and the change of the cost."""
    e = s.removable[below(s.random, s.counters[REMOVABLE])]
    if not may_remove(w, s, e):
        if mix.firsts > 0.0 and s.runs[s.run[e, NODE], 0] < 2:
            unlist(s, e)  # Shifts find it without the list.
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
        if not may_remove(w, s, e):
            continue
        _note(log, length, REMOVED, v, remove(w, s, e, budget))
        length += 1
        gain -= w.cost[v]
        for q in range(w.nodes[v, READS], w.nodes[v, READS + 1]):
            u = w.items[w.links[q], PRODUCER]
            i = serving(s.runs, s.run, u, k)
            if i < 0:
                continue
            source = s.runs[u, 1 + i]
            if s.run[source, INDEX] < 0 or waiting >= LONGEST_MOVE or is_read(w, s, source):
                continue
            known = False
            for z in range(waiting):
                known |= log[z, PENDING] == source
            if not known:
                log[waiting, PENDING] = source
                waiting += 1
    return length, gain


@inner
def try_shift(w: Wiring, s: SequenceState, mix: MoveMix, log: Table, budget: int) -> tuple[int, float]:
    """Put a run elsewhere."""
    if mix.firsts > 0.0 and (s.counters[REMOVABLE] == 0 or uniform(s.random) < mix.firsts):
        v = below(s.random, s.runs.shape[0])
        e = s.runs[v, 1]
        if not w.nodes[v, LATE] or neighbour(s.held, s.counters[SLOTS], s.run[e, PLACE], 1) >= NOWHERE:
            return 0, 0.0
    else:
        e = s.removable[below(s.random, s.counters[REMOVABLE])]
        v = s.run[e, NODE]
    reader = _new_place(w, s, e)
    if reader < 0 or not may_insert(w, s, v, s.run[reader, PLACE], LONGEST_MOVE):
        return 0, 0.0
    if s.runs[v, 1] != e:
        _note(log, 0, REMOVED, v, remove(w, s, e, budget))
        _note(log, 1, INSERTED, v, insert(w, s, v, reader, budget))
        return 2, 0.0
    _note(log, 0, INSERTED, v, insert(w, s, v, reader, budget))
    if not may_remove(w, s, e):
        return 1, w.cost[v]
    _note(log, 1, REMOVED, v, remove(w, s, e, budget))
    return 2, 0.0


@inner
def try_insert(
    w: Wiring, s: SequenceState, mix: MoveMix, limit: float, log: Table, start: int, budget: int
) -> tuple[int, float]:
    """Recompute a node before a reader, and with some chance the inputs that are not available there; log it from ``start``."""
    v, reader = _choose_insert(w, s, mix)
    if v < 0 or w.cost[v] > limit or not may_insert(w, s, v, s.run[reader, PLACE], LONGEST_MOVE):
        return 0, 0.0
    r = uniform(s.random)
    chance = 0.0 if r < mix.alone else (1.0 if r < mix.alone + mix.whole else 0.5)
    most = 1 + int(_LONGEST_CHAIN * uniform(s.random) ** 4)
    _note(log, start, INSERTED, v, insert(w, s, v, reader, budget))
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
            i = serving(s.runs, s.run, u, k)
            if i == 0 and w.items[x, LASTING]:
                continue
            following = slot_of(s.runs, s.run, u, i + 1)
            if next_use(w.items, w.links, s.runs, s.run, x, k, following) < following:
                continue  # It is live here anyway.
            last = last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], k)
            near = neighbour(s.held, s.counters[SLOTS], last, 1)
            if near == k or neighbour(s.held, s.counters[SLOTS], near, 1) == k:
                continue
            if length < most and uniform(s.random) < chance and may_insert(w, s, u, k, LONGEST_MOVE):
                _note(log, start + length, INSERTED, u, insert(w, s, u, e, budget))
                length += 1
                cost += w.cost[u]
    return length, cost


@inner
def _new_place(w: Wiring, s: SequenceState, e: int) -> int:
    """Another run to put ``e`` before: the next reader of its result, the run after the last use of an input, or a run nearby.

    -1 if there is none.
    """
    v = s.run[e, NODE]
    k = s.run[e, PLACE]
    r = uniform(s.random)
    if r < _TO_READER:
        i = serving(s.runs, s.run, v, k + 1)
        following = slot_of(s.runs, s.run, v, i + 1)
        slot = following
        for q in range(w.nodes[v, WRITES], w.nodes[v, WRITES + 1]):
            slot = min(slot, next_use(w.items, w.links, s.runs, s.run, w.links[q], k, following))
    elif r < _TO_READER_OR_INPUT:
        inputs = w.nodes[v, READS + 1] - w.nodes[v, READS]
        if inputs == 0:
            return -1
        x = w.links[w.nodes[v, READS] + below(s.random, inputs)]
        u = w.items[x, PRODUCER]
        i = serving(s.runs, s.run, u, k)
        last = last_use(w.items, w.links, s.runs, s.run, x, s.run[s.runs[u, 1 + i], PLACE], k)
        slot = neighbour(s.held, s.counters[SLOTS], last, 1)
    else:
        steps = 1 + below(s.random, _FARTHEST)
        direction = -1 if uniform(s.random) < 0.5 else 1
        slot = k
        for _ in range(steps + (direction > 0)):
            slot = neighbour(s.held, s.counters[SLOTS], slot, direction)
            if slot < 0 or slot >= NOWHERE:
                return -1
    if slot < 0 or slot >= NOWHERE or slot == k or slot == neighbour(s.held, s.counters[SLOTS], k, 1):
        return -1
    return s.held[slot]


@inner
def _choose_insert(w: Wiring, s: SequenceState, mix: MoveMix) -> tuple[int, int]:
    """A node and a run to insert it before: an item idle while many bytes are live, or any input of any run. (-1, -1): none."""
    if s.counters[OVER] > 0 and uniform(s.random) < mix.at_peaks:
        high = _random_run(s)
        for _ in range(_PLACES - 1):
            e = _random_run(s)
            if s.live[s.run[e, PLACE]] > s.live[s.run[high, PLACE]]:
                high = e
        k = s.run[high, PLACE]
        for _ in range(_ITEMS):
            x = below(s.random, w.items.shape[0])
            v = w.items[x, PRODUCER]
            if not w.nodes[v, AGAIN]:
                continue
            i = serving(s.runs, s.run, v, k)
            if i < 0:
                continue
            following = slot_of(s.runs, s.run, v, i + 1)
            slot = next_use(w.items, w.links, s.runs, s.run, x, k, following)
            if slot < following:
                return v, s.held[slot]
        return -1, -1
    reader = _random_run(s)
    v = s.run[reader, NODE]
    inputs = w.nodes[v, READS + 1] - w.nodes[v, READS]
    if inputs == 0:
        return -1, -1
    return w.items[w.links[w.nodes[v, READS] + below(s.random, inputs)], PRODUCER], reader


@inner
def _random_run(s: SequenceState) -> int:
    """Any run: of the removable ones and the first one of each node."""
    n = s.runs.shape[0]
    x = below(s.random, n + s.counters[REMOVABLE])
    return s.runs[x, 1] if x < n else s.removable[x - n]


@inner
def _note(log: Table, i: int, kind: int, v: int, run: int) -> None:
    log[i, KIND] = kind
    log[i, LOGGED] = v
    log[i, RUN] = run
