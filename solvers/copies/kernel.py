"""From decisions to a sequence with transfers, and its time and memory: compiled, as a search asks for it very often.

First the ops: nodes run in the given order; what has left is fetched just before the node that needs it, by recomputation or a
load. Then the transfers, by simulated time as in ``schedules.queues`` (without the slowing of ops beside copies):

- A store is issued just after the node that computes its item, and released as late as memory allows: when the copy is
  complete, so that nothing waits, or when memory is short, and then the compute queue waits for the oldest one.
- A load is issued as late as its channel allows: so that it is complete when its first reader runs, and so that the loads
  after it are in time too. Where memory has no room for it then, it is issued as soon as there is room, and its reader waits.

Memory is counted by position. What exceeds the budget is returned, so that a search can go through such decisions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.compiling import entrance, inner, is_compiled

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class Wiring(NamedTuple):
    """What the kernel knows of the graph; see ``Problem`` and ``Gaps`` for the terms.

    Attributes:
        cost: float64[n].
        workspace, replay: int64[n].
        auxiliary: bool[n].
        closed: bool[n], no transfer may be issued just before the node: it is in the caller's loss, and not its first op.
        read_ptr, read_items, write_ptr, write_items: CSR over nodes.
        bytes, base, producer: int64[m].
        lasting: bool[m].
        gap_begin: int64[n + 1].
        gap_item: int64[gaps].
        pool_bytes: int64[pools, m], bytes that a copy of each item takes in each pool.
        pool_budgets: int64[pools].
        rates: float64[pools, 2], bytes per second out and in.
        latencies: float64[pools, 2], seconds.
    """

    cost: _Floats
    workspace: _Ints
    replay: _Ints
    auxiliary: NDArray[np.bool_]
    closed: NDArray[np.bool_]
    read_ptr: _Ints
    read_items: _Ints
    write_ptr: _Ints
    write_items: _Ints
    bytes: _Ints
    base: _Ints
    producer: _Ints
    lasting: NDArray[np.bool_]
    gap_begin: _Ints
    gap_item: _Ints
    pool_bytes: _Ints
    pool_budgets: _Ints
    rates: _Floats
    latencies: _Floats


class Sequence(NamedTuple):
    """Ops, and how long each instance of an item lives.

    Attributes:
        nodes: int64[positions].
        live: int64[positions], bytes while each runs, workspace included, constants not. A stored instance counts up to its
            last read, a loaded one from its first.
        stores: int64[copies, 4]: item, pool, the position that computes the instance, its last read.
        loads: int64[loads, 5]: item, pool, the position of the first read, the store it comes from, and the first position at
            which the instance before it is not needed any more.
    """

    nodes: _Ints
    live: _Ints
    stores: _Ints
    loads: _Ints


class Places(NamedTuple):
    """Where transfers are issued: before which position.

    Attributes:
        store, release: int64[copies].
        load: int64[loads].
        seconds: of the step, stalls included.
        excess: bytes over the budget, summed over the positions.
        peak: bytes at the peak, constants not included.
    """

    store: _Ints
    release: _Ints
    load: _Ints
    seconds: float
    excess: float
    peak: int


def ready() -> bool:
    """Whether this runs at once, without being compiled."""
    return is_compiled(evaluate, [Path(__file__)])


@entrance
def evaluate(w: Wiring, decisions: _Ints, budget: int) -> tuple[float, float, int]:
    """Seconds, excess and peak of ``decisions``, as in ``Places``.

    Seconds and excess are inf where the copies exceed the budget of a pool if none uses the place of another, or where the
    sequence is too long.
    """
    s = sequence(w, decisions)
    taken = np.zeros(w.pool_budgets.size, np.int64)
    for k in range(s.stores.shape[0]):
        taken[s.stores[k, 1]] += w.pool_bytes[s.stores[k, 1], s.stores[k, 0]]
    if s.nodes.size < w.cost.size or (taken > w.pool_budgets).any():
        return np.inf, np.inf, 0
    placed = places(w, s, budget)
    return placed.seconds, placed.excess, placed.peak


@entrance
def sequence(w: Wiring, decisions: _Ints) -> Sequence:
    """The ops in order, with what has left fetched again; ``decisions`` is int64[gaps], see ``gaps``.

    Without any nodes if the sequence would be more than three times as long as the step.
    """
    n, m = w.cost.size, w.bytes.size
    most = 3 * n + 64
    nodes = np.empty(most, np.int64)
    length = 0
    available = np.zeros(m, np.bool_)
    source = np.full(m, -1, np.int64)  # the store that an item can be loaded from
    current = np.full(m, -1, np.int64)  # its newest instance
    pieces = most + m
    birth, death, size = np.empty(pieces, np.int64), np.empty(pieces, np.int64), np.empty(pieces, np.int64)
    lasting = np.zeros(pieces, np.bool_)
    load_of = np.full(pieces, -1, np.int64)
    count = 0
    stores, loads = np.empty((w.gap_item.size, 4), np.int64), np.empty((most, 5), np.int64)
    stored = loaded = 0
    first, last = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    stack = np.empty(n + 1, np.int64)
    for place in range(2 * n):
        # Auxiliary nodes that were left to their readers, and that nothing has needed, run at the end.
        node = place if place < n else place - n
        skip = first[node] >= 0 and (place >= n or w.auxiliary[node])
        if place < n and w.auxiliary[node] and not skip:
            left = 0
            for gap in range(w.gap_begin[node], w.gap_begin[node + 1]):
                left += w.producer[w.gap_item[gap]] == node and decisions[gap] == 1
            skip = left > 0 and left == w.write_ptr[node + 1] - w.write_ptr[node]
        depth = -1 if skip else 0
        stack[0] = node
        while depth >= 0:
            top = stack[depth]
            missing = -1
            for k in range(w.read_ptr[top], w.read_ptr[top + 1]):
                item = w.read_items[k]
                if available[item]:
                    continue
                if source[item] >= 0 and loaded < most and count < pieces:
                    loads[loaded, 0], loads[loaded, 1] = item, stores[source[item], 1]
                    loads[loaded, 2], loads[loaded, 3], loads[loaded, 4] = -1, source[item], death[current[item]] + 1
                    birth[count] = death[count] = -1
                    size[count] = w.bytes[item]
                    load_of[count] = loaded
                    current[item] = count
                    count += 1
                    loaded += 1
                    available[item] = True
                else:
                    missing = item
                    break
            if missing >= 0:
                depth += 1
                stack[depth] = w.producer[missing]
                continue
            depth -= 1
            if length == most or count + w.write_ptr[top + 1] - w.write_ptr[top] > pieces:
                return Sequence(nodes[:0], birth[:0], stores[:0], loads[:0])
            for k in range(w.read_ptr[top], w.read_ptr[top + 1]):
                piece = current[w.read_items[k]]
                if load_of[piece] >= 0 and loads[load_of[piece], 2] < 0:
                    loads[load_of[piece], 2] = length
                    birth[piece] = length
                death[piece] = length
            for k in range(w.write_ptr[top], w.write_ptr[top + 1]):
                item = w.write_items[k]
                if w.base[item] == item:
                    piece = current[item]
                    if piece >= 0 and load_of[piece] >= 0 and birth[piece] < 0:  # loaded, and computed before it was read
                        loads[load_of[piece], 2] = -2
                    current[item] = count
                    birth[count] = death[count] = length
                    size[count] = w.bytes[item]
                    count += 1
                else:
                    current[item] = current[w.base[item]]
                lasting[current[item]] |= w.lasting[item] and first[top] < 0
                available[item] = True
            if first[top] < 0:
                first[top] = length
            last[top] = length
            nodes[length] = top
            length += 1
        for gap in range(w.gap_begin[node], w.gap_begin[node + 1]):
            item = w.gap_item[gap]
            if place >= n or decisions[gap] == 0 or not available[item]:
                continue
            available[item] = False
            if decisions[gap] > 1 and source[item] < 0:
                piece = current[item]
                stores[stored, 0], stores[stored, 1] = item, decisions[gap] - 2
                stores[stored, 2], stores[stored, 3] = birth[piece], piece
                source[item] = stored
                stored += 1
    # A store that nothing is loaded from is none, and neither is a load that nothing reads.
    used = np.zeros(stored, np.bool_)
    kept = 0
    for k in range(loaded):
        if loads[k, 2] >= 0:
            used[loads[k, 3]] = True
            loads[kept] = loads[k]
            kept += 1
    place_of = np.full(stored, -1, np.int64)
    live = np.zeros(length + 1, np.int64)
    kept_stores = 0
    for k in range(stored):
        if used[k]:
            place_of[k] = kept_stores
            stores[kept_stores] = stores[k]
            stores[kept_stores, 3] = death[stores[k, 3]]
            kept_stores += 1
    for k in range(kept):
        loads[k, 3] = place_of[loads[k, 3]]
    for piece in range(count):
        if birth[piece] >= 0:
            live[birth[piece]] += size[piece]
            live[length if lasting[piece] else death[piece] + 1] -= size[piece]
    for node in range(n):
        if w.replay[node] and last[node] > first[node]:
            live[first[node]] += w.replay[node]
            live[last[node] + 1] -= w.replay[node]
    total = 0
    for position in range(length):
        total += live[position]
        live[position] = total + w.workspace[nodes[position]]
    return Sequence(nodes[:length], live[:length], stores[:kept_stores], loads[:kept])


@entrance
def places(w: Wiring, s: Sequence, budget: int) -> Places:
    """Where the transfers of ``s`` are issued, within ``budget`` bytes (constants not included) as far as possible."""
    length = s.nodes.size
    copies = s.stores.shape[0]
    open_at = np.empty(length + 1, np.int64)  # the first position from here on before which transfers may be issued
    open_at[length] = length
    for position in range(length - 1, -1, -1):
        open_at[position] = open_at[position + 1] if w.closed[s.nodes[position]] else position
    level = np.empty(length + 1, np.int64)
    level[:length] = s.live
    level[length] = 0
    store, release = np.empty(copies, np.int64), np.full(copies, -1, np.int64)
    for k in range(copies):
        store[k] = open_at[s.stores[k, 2] + 1]
    order = np.argsort(store, kind="mergesort")
    by_use = np.argsort(s.loads[:, 2], kind="mergesort")
    begin = _release(w, s, budget, store, order, by_use, open_at, level, release)
    load = _place_loads(w, s, budget, by_use, open_at, level, release, begin)
    seconds = _seconds(w, s, store, order, release, load, by_use)
    excess, peak = 0.0, 0
    for position in range(length):
        excess += max(0, level[position] - budget)
        peak = max(peak, level[position])
    return Places(store, release, load, seconds, excess, peak)


@inner
def _release(w, s, budget, store, order, by_use, open_at, level, release):  # type: ignore[no-untyped-def]
    """Place the releases and add the bytes that wait for them to ``level``; return when each position begins."""
    length, copies = s.nodes.size, store.size
    begin = np.empty(length + 1, np.float64)
    complete = np.zeros(copies, np.float64)
    free = np.zeros(w.rates.shape[0], np.float64)
    clock, head, tail, use, waiting = 0.0, 0, 0, 0, 0
    idle = np.zeros(copies, np.bool_)  # stored, last read, and not released: its bytes wait
    for position in range(length + 1):
        at_open = position == length or open_at[position] == position
        while tail < copies and store[order[tail]] <= position and at_open:
            k = order[tail]
            pool, size = s.stores[k, 1], w.bytes[s.stores[k, 0]]
            complete[k] = max(clock, free[pool]) + w.latencies[pool, 0] + size / w.rates[pool, 0]
            free[pool] = complete[k]
            tail += 1
        for j in range(head, tail):
            k = order[j]
            if release[k] >= 0 or s.stores[k, 3] >= position:
                continue
            if not idle[k]:
                idle[k] = True
                waiting += w.bytes[s.stores[k, 0]]
            if complete[k] <= clock and at_open:
                release[k] = position
                waiting -= w.bytes[s.stores[k, 0]]
        while head < tail and release[order[head]] >= 0:
            head += 1
        while use < by_use.size and s.loads[by_use[use], 2] <= position:
            k = s.loads[by_use[use], 3]
            if release[k] < 0:
                clock = max(clock, complete[k])
                release[k] = position
                waiting -= w.bytes[s.stores[k, 0]]
            use += 1
        while at_open and level[position] + waiting > budget and waiting:
            oldest = -1
            for j in range(head, tail):
                k = order[j]
                if idle[k] and release[k] < 0 and (oldest < 0 or complete[k] < complete[oldest]):
                    oldest = k
            clock = max(clock, complete[oldest])
            release[oldest] = position
            waiting -= w.bytes[s.stores[oldest, 0]]
        level[position] += waiting
        begin[position] = clock
        if position < length:
            clock += w.cost[s.nodes[position]]
    return begin


@inner
def _place_loads(w, s, budget, by_use, open_at, level, release, begin):  # type: ignore[no-untyped-def]
    """Place the loads, in order of their first reads, and add their bytes before those to ``level``."""
    count = by_use.size
    load = np.empty(count, np.int64)
    following = np.full(w.rates.shape[0], np.inf)
    for j in range(count - 1, -1, -1):
        k = by_use[j]
        pool, use = s.loads[k, 1], s.loads[k, 2]
        took = w.latencies[pool, 1] + w.bytes[s.loads[k, 0]] / w.rates[pool, 1]
        start = min(begin[use], following[pool]) - took
        following[pool] = start
        load[k] = np.searchsorted(begin[: use + 1], start, side="right") - 1
    earliest = np.zeros(w.rates.shape[0], np.int64)
    for j in range(count):
        k = by_use[j]
        pool, use, size = s.loads[k, 1], s.loads[k, 2], w.bytes[s.loads[k, 0]]
        wanted = max(load[k], release[s.loads[k, 3]], s.loads[k, 4], earliest[pool])
        position = use
        while position > wanted and level[position - 1] + size <= budget:
            position -= 1
        position = open_at[position]
        load[k] = earliest[pool] = min(position, use)
        for p in range(load[k], use):
            level[p] += size
    return load


@inner
def _seconds(w, s, store, order, release, load, by_use):  # type: ignore[no-untyped-def]
    """Seconds of the step, by the rules of ``schedules.queues`` without slowing."""
    length = s.nodes.size
    complete, loaded = np.zeros(store.size), np.zeros(load.size)
    free = np.zeros((w.rates.shape[0], 2), np.float64)
    released = np.argsort(release, kind="mergesort")
    issued = by_use[np.argsort(load[by_use], kind="mergesort")]
    clock, a, b, c, d = 0.0, 0, 0, 0, 0
    for position in range(length + 1):
        while a < order.size and store[order[a]] == position:
            k = order[a]
            pool = s.stores[k, 1]
            free[pool, 0] = max(clock, free[pool, 0]) + w.latencies[pool, 0] + w.bytes[s.stores[k, 0]] / w.rates[pool, 0]
            complete[k] = free[pool, 0]
            a += 1
        while b < released.size and release[released[b]] == position:
            clock = max(clock, complete[released[b]])
            b += 1
        while c < issued.size and load[issued[c]] == position:
            k = issued[c]
            pool = s.loads[k, 1]
            free[pool, 1] = max(clock, free[pool, 1]) + w.latencies[pool, 1] + w.bytes[s.loads[k, 0]] / w.rates[pool, 1]
            loaded[k] = free[pool, 1]
            c += 1
        while d < by_use.size and s.loads[by_use[d], 2] == position:
            clock = max(clock, loaded[by_use[d]])
            d += 1
        if position < length:
            clock += w.cost[s.nodes[position]]
    return clock
