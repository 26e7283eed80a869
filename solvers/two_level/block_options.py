"""What can be kept of one block and what it costs: the front of options between all and nothing.

Which items to keep so that computing the others again is cheapest, for a given number of kept bytes, is a closure problem with
one knapsack row: a small integer program. Sweeping the bytes gives the front. For every option the exact live bytes of the
block's own items follow from running it on paper, at each forward node and each node of the block's stretch of the backward.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.milp import Program
from remat_planner.solvers.problem import Floats, Ints, Problem
from remat_planner.solvers.two_level.blocks import Partition

# Points of a front at most, and seconds for one of them at most.
_MOST_OPTIONS = 64
_SECONDS_PER_OPTION = 2.0
# Of a block's seconds times 1000: options need not be exact, the schedule that is made of them is judged as it is.
_GAP = 0.02
# Bytes that never are: stands for "nothing runs here" where the highest of several bytes is looked for.
_NEVER = -(1 << 60)


@dataclass(frozen=True, eq=False)
class Pattern:
    """One block, in numbers of its own: nodes, items and nodes of its stretch of the backward each count from 0.

    Two blocks with equal ``key`` have the same options. Outer items are those that the block reads or makes and does not own.

    Attributes:
        cost, workspace, replay: of each node.
        reads, writes: own items of each node.
        outer_reads: outer items of each node.
        outer_bytes_made: bytes of outer items that each node makes.
        bytes, producer: of each own item.
        outer_bytes: of each outer item.
        outer_until: for each outer item the last node of the stretch that reads it anyway: -1 before it, ``length`` beyond it.
        window: own items read by each node of the stretch.
        items: numbers of the own items in the problem.
    """

    cost: tuple[float, ...]
    workspace: tuple[int, ...]
    replay: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    outer_reads: tuple[tuple[int, ...], ...]
    outer_bytes_made: tuple[int, ...]
    bytes: tuple[int, ...]
    producer: tuple[int, ...]
    outer_bytes: tuple[int, ...]
    outer_until: tuple[int, ...]
    window: tuple[tuple[int, ...], ...]
    items: tuple[int, ...]

    @property
    def key(self) -> Hashable:
        """Equal for blocks that are the same but for where they are."""
        return tuple(value for name, value in self.__dict__.items() if name != "items")


@dataclass(frozen=True, eq=False)
class Option:
    """One way to treat a block.

    Attributes:
        kept: own items of the pattern that are held until the backward reads them.
        saved: bytes held between the block's forward and its stretch of the backward.
        seconds: of recomputation.
        forward: int64[nodes], live bytes of own items while each node first runs.
        window: int64[length], live bytes of own items and of what is held for them while each node of the stretch runs.
        again: int64[length], the highest such bytes, workspace included, while something is computed again before that node.
    """

    kept: tuple[int, ...]
    saved: int
    seconds: float
    forward: Ints
    window: Ints
    again: Ints


def patterns(problem: Problem, partition: Partition) -> list[Pattern]:
    """The pattern of every block."""
    last_read = [readers[-1] if readers else -1 for readers in problem.readers]
    lasting = problem.lasting.tolist()
    internal = partition.internal.tolist()
    made_by = problem.producer.tolist()
    sizes = problem.bytes.tolist()
    found = []
    for block in partition.blocks:
        nodes = range(block.start, block.end)
        items = [i for node in nodes for i in problem.writes[node] if internal[i]]
        own = {item: number for number, item in enumerate(items)}
        outer: dict[int, int] = {}
        for node in nodes:
            for i in problem.reads[node]:
                if i not in own:
                    outer.setdefault(i, len(outer))
        length = block.closes - block.opens
        until = [length if lasting[i] else min(max(last_read[i] - block.opens, -1), length) for i in outer]
        found.append(
            Pattern(
                cost=tuple(problem.cost[block.start : block.end].tolist()),
                workspace=tuple(problem.workspace[block.start : block.end].tolist()),
                replay=tuple(problem.replay[block.start : block.end].tolist()),
                reads=tuple(tuple(own[i] for i in problem.reads[node] if i in own) for node in nodes),
                writes=tuple(tuple(own[i] for i in problem.writes[node] if i in own) for node in nodes),
                outer_reads=tuple(tuple(outer[i] for i in problem.reads[node] if i in outer) for node in nodes),
                outer_bytes_made=tuple(sum(sizes[i] for i in problem.writes[node] if i not in own) for node in nodes),
                bytes=tuple(sizes[i] for i in items),
                producer=tuple(made_by[i] - block.start for i in items),
                outer_bytes=tuple(sizes[i] for i in outer),
                outer_until=tuple(until),
                window=tuple(
                    tuple(own[i] for i in problem.reads[node] if i in own) for node in range(block.opens, block.closes)
                ),
                items=tuple(items),
            )
        )
    return found


def front(pattern: Pattern, deadline: Deadline) -> list[Option]:
    """Options from the one that keeps most to the one that keeps least, none both larger and slower than another."""
    first = _cheapest(pattern, None, deadline)
    if first is None:
        return [run(pattern, range(len(pattern.bytes)))]
    options = [run(pattern, first)]
    step = max(1, options[0].saved // _MOST_OPTIONS)
    while options[-1].saved > 0 and not deadline.expired:
        kept = _cheapest(pattern, options[-1].saved - step, deadline)
        if kept is None:
            break
        option = run(pattern, kept)
        if option.saved >= options[-1].saved:
            break
        options.append(option)
    least = run(pattern, ())
    if least.saved < options[-1].saved:
        options.append(least)
    return options


def _cheapest(pattern: Pattern, most: int | None, deadline: Deadline) -> list[int] | None:
    """The items to keep so that recomputation is cheapest, in at most so many bytes; None where that cannot be."""
    program = Program()
    total = sum(pattern.bytes) + sum(pattern.outer_bytes) + sum(pattern.replay)
    byte_unit = max(total, 1) / 1000.0
    # Among equally fast answers the one that keeps least: all bytes together weigh a hundred-thousandth of all seconds.
    seconds = sum(pattern.cost)
    cost_unit = max(seconds, 1e-300) / 1000.0
    per_byte = 1e-5 * 1000.0 / max(total, 1)
    needed = {item for read in pattern.window for item in read}
    wanted = _ancestors(pattern, needed)
    keep = {i: program.column(per_byte * pattern.bytes[i], integer=True) for i in sorted(wanted)}
    nodes = sorted({pattern.producer[i] for i in wanted})
    again = {v: program.column(pattern.cost[v] / cost_unit + per_byte * pattern.replay[v], integer=True) for v in nodes}

    def there(item: int) -> dict[int, float]:
        return {keep[item]: 1.0, again[pattern.producer[item]]: 1.0}

    room = {keep[i]: pattern.bytes[i] / byte_unit for i in keep if pattern.bytes[i]}
    held: dict[int, int] = {}
    for v, column in again.items():
        if pattern.replay[v]:
            room[column] = pattern.replay[v] / byte_unit
        for i in pattern.reads[v]:
            program.at_least({**there(i), column: -1.0}, 0.0)
        for outer in pattern.outer_reads[v]:
            if pattern.outer_until[outer] < 0 and pattern.outer_bytes[outer]:
                if outer not in held:
                    held[outer] = program.column(per_byte * pattern.outer_bytes[outer])
                    room[held[outer]] = pattern.outer_bytes[outer] / byte_unit
                program.at_least({held[outer]: 1.0, column: -1.0}, 0.0)
    for item in needed:
        program.at_least(there(item), 1.0)
    if most is not None:
        program.at_most(room, (most + 0.5) / byte_unit)
    outcome = program.solve(seconds=min(_SECONDS_PER_OPTION, deadline.remaining), gap=_GAP)
    if outcome.values is None:
        return None
    return [i for i, column in keep.items() if outcome.values[column] > 0.5]


def _ancestors(pattern: Pattern, needed: set[int]) -> set[int]:
    """Own items that may be asked for when ``needed`` are computed again."""
    found = set(needed)
    pending = list(needed)
    while pending:
        for item in pattern.reads[pattern.producer[pending.pop()]]:
            if item not in found:
                found.add(item)
                pending.append(item)
    return found


def run(pattern: Pattern, kept: Sequence[int]) -> Option:
    """Run a block on paper with these items kept: everything else is computed again just before it is needed, then held."""
    n, length = len(pattern.cost), len(pattern.window)
    sequence = _window_sequence(pattern, set(kept))
    place_of_window = [k for k, (_, node) in enumerate(sequence) if node < 0]
    total = len(sequence)
    uses: dict[int, list[int]] = {}
    made: dict[int, list[int]] = {item: [-1] for item in kept}
    last_run: dict[int, int] = {}
    outer_use: dict[int, int] = {}
    for k, (offset, node) in enumerate(sequence):
        read = pattern.window[offset] if node < 0 else pattern.reads[node]
        for item in read:
            uses.setdefault(item, []).append(k)
        if node >= 0:
            last_run[node] = k
            for outer in pattern.outer_reads[node]:
                outer_use[outer] = k
            for item in pattern.writes[node]:
                made.setdefault(item, []).append(k)
    live = np.zeros(total + 1, dtype=np.int64)
    useful = []
    for item, births in made.items():
        reads = uses.get(item, [])
        for birth, following in zip(births, [*births[1:], total], strict=True):
            end = max((k for k in reads if birth < k <= following), default=birth)
            if birth < 0 <= end:
                useful.append(item)
            if end >= 0:
                live[max(birth, 0)] += pattern.bytes[item]
                live[end + 1] -= pattern.bytes[item]
    saved = sum(pattern.bytes[item] for item in useful)
    # Random states, and outer items that would be gone by then, are held for what is computed again.
    held = [(pattern.replay[node], k) for node, k in last_run.items()]
    held += [(pattern.outer_bytes[o], k) for o, k in outer_use.items() if pattern.outer_until[o] < sequence[k][0]]
    for size, k in held:
        saved += size
        live[0] += size
        live[k + 1] -= size
    levels = np.cumsum(live[:-1])
    again = np.full(length, _NEVER, dtype=np.int64)
    for k, (offset, node) in enumerate(sequence):
        if node >= 0:
            level = int(levels[k]) + pattern.workspace[node] + pattern.outer_bytes_made[node]
            again[offset] = max(int(again[offset]), level)
    return Option(
        kept=tuple(sorted(useful)),
        saved=saved,
        seconds=sum(pattern.cost[node] for _, node in sequence if node >= 0),
        forward=_forward_levels(pattern, set(useful), n),
        window=levels[place_of_window] if length else np.zeros(0, dtype=np.int64),
        again=again,
    )


def _window_sequence(pattern: Pattern, kept: set[int]) -> list[tuple[int, int]]:
    """Pairs (node of the stretch, node computed again just before it; -1 for itself)."""
    there = set(kept)
    sequence: list[tuple[int, int]] = []
    for offset, read in enumerate(pattern.window):
        missing: set[int] = set()
        pending = [pattern.producer[item] for item in read if item not in there]
        while pending:
            node = pending.pop()
            if node not in missing:
                missing.add(node)
                pending.extend(pattern.producer[item] for item in pattern.reads[node] if item not in there)
        for node in sorted(missing):
            sequence.append((offset, node))
            there.update(pattern.writes[node])
        sequence.append((offset, -1))
    return sequence


def _forward_levels(pattern: Pattern, kept: set[int], n: int) -> Ints:
    live = np.zeros(n + 1, dtype=np.int64)
    end = list(pattern.producer)
    for node, read in enumerate(pattern.reads):
        for item in read:
            end[item] = node
    for item, node in enumerate(pattern.producer):
        live[node] += pattern.bytes[item]
        if item not in kept:
            live[end[item] + 1] -= pattern.bytes[item]
    levels: Ints = np.cumsum(live[:-1])
    return levels


def pruned(saved: Ints, seconds: Floats) -> Ints:
    """Indices of the pairs that no other beats in both, by ascending bytes."""
    order = np.lexsort((seconds, saved))
    best = np.minimum.accumulate(seconds[order])
    keep = np.ones(len(order), dtype=np.bool_)
    keep[1:] = seconds[order][1:] < best[:-1]
    chosen: Ints = order[keep]
    return chosen
