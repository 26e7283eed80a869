"""Two levels: what to keep inside of each block, and how many bytes each block may have.

The step is cut into blocks (``partition``), each distinct block gets its front of options once (``block_options``), and a
dynamic program walks the chain of blocks with the bytes held so far: prefix bytes -> least seconds. Bytes are carried exactly;
of the prefixes within one slot of memory only the cheapest goes on. Each block must fit while it runs forward, beside what the
blocks before it hold, and while the backward goes through it. The best of several partitions, fine to coarse, is the answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Emitter, Ints, Problem
from remat_planner.solvers.two_level.block_options import Option, Pattern, front, patterns, pruned
from remat_planner.solvers.two_level.blocks import Partition, partitions

# Prefixes that the dynamic program carries from block to block at most.
_SLOTS = 2000
# A chain whose sequence is over the budget by what the two levels do not see is solved again with that much less.
_TRIES = 4


class TwoLevels:
    """Partitions with the options of their blocks: made once, asked for any number of budgets.

    Args:
        problem: the reduced graph.
        deadline: for making the options; partitions that it leaves no time for are left out.

    Attributes:
        chains: one for each partition, fine to coarse.
        note: what they are like.
    """

    def __init__(self, problem: Problem, deadline: Deadline) -> None:
        self.problem = problem
        self.chains: list[_Chain] = []
        fronts: dict[Hashable, list[Option]] = {}
        for partition in partitions(problem):
            if self.chains and deadline.elapsed > 0.5 * deadline.seconds:
                break
            self.chains.append(_Chain(problem, partition, fronts, deadline))
        counts = " or ".join(str(len(chain.partition.blocks)) for chain in self.chains)
        self.note = f"cut into {counts} blocks, {len(fronts)} distinct" if counts else "the step has no backward pass to cut"

    def best(self, budget: int) -> list[int]:
        """The cheapest sequence of nodes within the budget, or the one with the lowest peak."""
        problem = self.problem
        candidates = [list(range(problem.n))]
        for chain in self.chains:
            limit = budget
            for _ in range(_TRIES):
                choice = chain.choose(limit)
                if choice is None:
                    break
                nodes = chain.sequence(choice)
                candidates.append(nodes)
                excess = problem.simulate(nodes).peak_bytes - budget
                if excess <= 0:
                    break
                limit -= excess
            else:
                continue
            if choice is None:
                candidates.append(chain.sequence(chain.leanest()))
        judged = [(problem.simulate(nodes), nodes) for nodes in candidates]
        fitting = [pair for pair in judged if pair[0].peak_bytes <= budget]
        if fitting:
            return min(fitting, key=lambda pair: pair[0].seconds)[1]
        return min(judged, key=lambda pair: pair[0].peak_bytes)[1]


@dataclass(frozen=True, eq=False)
class _Link:
    """One block of a chain: its options and the bytes that each needs beside the prefix, constants included."""

    pattern: Pattern
    options: list[Option]
    saved: Ints
    seconds: np.ndarray
    needed: Ints


class _Chain:
    """One partition with the options of its blocks."""

    def __init__(
        self, problem: Problem, partition: Partition, fronts: dict[Hashable, list[Option]], deadline: Deadline
    ) -> None:
        self.problem = problem
        self.partition = partition
        self.links: list[_Link] = []
        outside, crossing = _levels_without_own_items(problem, partition)
        unique = patterns(problem, partition)
        new = {pattern.key for pattern in unique} - fronts.keys()
        for block, pattern in zip(partition.blocks, unique, strict=True):
            key = pattern.key
            if key not in fronts:
                # The time that is left is for all distinct blocks alike, and half of it for what comes after them.
                fronts[key] = front(pattern, deadline.part(0.5 / max(1, len(new))))
                new.discard(key)
            options = fronts[key]
            forward = outside[block.start : block.end]
            window = outside[block.opens : block.closes]
            again = crossing[block.opens : block.closes]
            needed = [
                max(
                    int((forward + option.forward).max(initial=0)),
                    int((window + option.window).max(initial=0)),
                    int((again + option.again).max(initial=0)),
                )
                for option in options
            ]
            self.links.append(
                _Link(
                    pattern,
                    options,
                    np.array([option.saved for option in options], dtype=np.int64),
                    np.array([option.seconds for option in options]),
                    np.array(needed, dtype=np.int64),
                )
            )

    def choose(self, budget: int) -> list[int] | None:
        """An option for each block, of least seconds in all; None where the chain does not fit."""
        prefix = np.zeros(1, dtype=np.int64)
        seconds = np.zeros(1)
        history: list[tuple[Ints, Ints]] = []
        slot = max(1, budget // _SLOTS)
        for link in self.links:
            fits = prefix[:, None] + link.needed[None, :] <= budget
            source, option = np.nonzero(fits)
            if not len(source):
                return None
            bytes_ = prefix[source] + link.saved[option]
            cost = seconds[source] + link.seconds[option]
            # The cheapest of each slot of memory, then those that no smaller one beats.
            order = np.lexsort((bytes_, cost, bytes_ // slot))
            first = np.ones(len(order), dtype=np.bool_)
            slots = bytes_[order] // slot
            first[1:] = slots[1:] != slots[:-1]
            order = order[first]
            order = order[pruned(bytes_[order], cost[order])]
            prefix, seconds = bytes_[order], cost[order]
            history.append((source[order], option[order]))
        state = int(np.argmin(seconds))
        choice = []
        for source, option in reversed(history):
            choice.append(int(option[state]))
            state = int(source[state])
        return choice[::-1]

    def leanest(self) -> list[int]:
        """The option of each block that keeps least."""
        return [int(np.argmin(link.saved)) for link in self.links]

    def sequence(self, choice: Sequence[int]) -> list[int]:
        """The nodes in order: forward once, then the backward, with what was not kept computed again just before it is read."""
        problem = self.problem
        kept = {
            link.pattern.items[item]
            for link, option in zip(self.links, choice, strict=True)
            for item in link.options[option].kept
        }
        internal = self.partition.internal.tolist()
        emitter = Emitter(problem, by_index=True)
        for node in range(self.partition.turn):
            emitter.run(node)
        emitter.keep([not own or item in kept for item, own in enumerate(internal)])
        for node in range(self.partition.turn, problem.n):
            emitter.run(node)
        return emitter.sequence


def _levels_without_own_items(problem: Problem, partition: Partition) -> tuple[Ints, Ints]:
    """Live bytes at each node, constants and workspace included, of all that is no block's own; and of what crosses into it."""
    n = problem.n
    level = np.zeros(n + 1, dtype=np.int64)
    crossing = np.zeros(n + 2, dtype=np.int64)
    internal = partition.internal.tolist()
    lasting, sizes, made_by = problem.lasting.tolist(), problem.bytes.tolist(), problem.producer.tolist()
    for item in range(problem.m):
        if internal[item] or not sizes[item]:
            continue
        made = made_by[item]
        readers = problem.readers[item]
        end = n - 1 if lasting[item] else (readers[-1] if readers else made)
        level[made] += sizes[item]
        level[end + 1] -= sizes[item]
        crossing[made + 1] += sizes[item]
        crossing[max(end, made) + 1] -= sizes[item]
    constant = problem.constant_bytes
    return np.cumsum(level[:-1]) + problem.workspace + constant, np.cumsum(crossing[:-2]) + constant
