"""A partition as a chain of blocks with their options, and the dynamic program that chooses one option for each.

The program walks the blocks with the bytes retained so far: prefix bytes -> least seconds. Bytes are carried exactly. Each
block must fit while it runs forward, beside the bytes that the blocks before it retain, and while the backward goes through it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules import live_bytes
from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.problem import Floats, Ints, Problem, SequenceBuilder
from remat_planner.solvers.two_level.blocks import Partition
from remat_planner.solvers.two_level.front import front
from remat_planner.solvers.two_level.option import BlockOption
from remat_planner.solvers.two_level.options import TwoLevelOptions
from remat_planner.solvers.two_level.pattern import BlockPattern, patterns


@dataclass(frozen=True, eq=False)
class Link:
    """One block of a chain: its options, and the bytes that each needs beside the prefix, constants included."""

    pattern: BlockPattern
    options: list[BlockOption]
    saved: Ints
    seconds: Floats
    needed: Ints


class BlockChain:
    """One partition with the options of its blocks.

    Args:
        problem: the reduced graph.
        partition: how it is cut.
        fronts: options by the key of their pattern; new ones are added.
        deadline: for making options.
        options: switches and tuning numbers.

    Attributes:
        links: the blocks, in forward order.
        prefixes: prefixes that the last ``choose`` carried, in all.
    """

    def __init__(
        self,
        problem: Problem,
        partition: Partition,
        fronts: dict[Hashable, list[BlockOption]],
        deadline: Deadline,
        options: TwoLevelOptions,
    ) -> None:
        self.problem = problem
        self.partition = partition
        self.links: list[Link] = []
        self.prefixes = 0
        self._options = options
        level, crossing = _levels_without_own_items(problem, partition)
        of_blocks = patterns(problem, partition)
        # The time that is left is for all distinct blocks alike, and half of it for what comes after them.
        new = len({pattern.key for pattern in of_blocks} - fronts.keys())
        for number, (block, pattern) in enumerate(zip(partition.blocks, of_blocks, strict=True)):
            key = pattern.key if options.share_blocks else (id(partition), number)
            if key not in fronts:
                fronts[key] = front(pattern, deadline.part(0.5 / max(1, new)), options)
                new -= 1
            forward = level[block.start : block.end]
            window = level[block.opens : block.closes]
            recomputing = crossing[block.opens : block.closes]
            needed = [
                max(
                    int((forward + option.forward).max(initial=0)),
                    int((window + option.window).max(initial=0)),
                    int((recomputing + option.recompute_peak).max(initial=0)),
                )
                for option in fronts[key]
            ]
            self.links.append(
                Link(
                    pattern,
                    fronts[key],
                    np.array([option.saved for option in fronts[key]], dtype=np.int64),
                    np.array([option.seconds for option in fronts[key]]),
                    np.array(needed, dtype=np.int64),
                )
            )

    def choose(self, budget: int) -> list[int] | None:
        """An option for each block, of least seconds in all; None where the chain does not fit."""
        prefix = np.zeros(1, dtype=np.int64)
        seconds = np.zeros(1)
        history: list[tuple[Ints, Ints]] = []
        slot = max(1, budget // self._options.slots)
        self.prefixes = 0
        for link in self.links:
            source, option = np.nonzero(prefix[:, None] + link.needed[None, :] <= budget)
            if not len(source):
                return None
            bytes_ = prefix[source] + link.saved[option]
            cost = seconds[source] + link.seconds[option]
            chosen = _cheapest_of_each_slot(bytes_, cost, slot)
            if self._options.prune_prefixes:
                chosen = chosen[undominated(bytes_[chosen], cost[chosen])]
            prefix, seconds = bytes_[chosen], cost[chosen]
            self.prefixes += len(chosen)
            history.append((source[chosen], option[chosen]))
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
        """The forward, then the backward, where items that are not kept are recomputed just before they are read."""
        problem = self.problem
        kept = {
            link.pattern.items[item]
            for link, option in zip(self.links, choice, strict=True)
            for item in link.options[option].kept
        }
        internal = self.partition.internal.tolist()
        builder = SequenceBuilder(problem, by_index=True)
        for node in range(self.partition.turn):
            builder.run(node)
        builder.keep([not own or item in kept for item, own in enumerate(internal)])
        for node in range(self.partition.turn, problem.n):
            builder.run(node)
        return builder.sequence


def undominated(saved: Ints, seconds: Floats) -> Ints:
    """Indices of the pairs that no other beats in both, by ascending bytes."""
    order = np.lexsort((seconds, saved))
    best = np.minimum.accumulate(seconds[order])
    keep = np.ones(len(order), dtype=np.bool_)
    keep[1:] = seconds[order][1:] < best[:-1]
    chosen: Ints = order[keep]
    return chosen


def _cheapest_of_each_slot(bytes_: Ints, cost: Floats, slot: int) -> Ints:
    """Of the pairs within a slot of memory the index of the cheapest, by ascending bytes."""
    order = np.lexsort((bytes_, cost, bytes_ // slot))
    first = np.ones(len(order), dtype=np.bool_)
    slots = bytes_[order] // slot
    first[1:] = slots[1:] != slots[:-1]
    chosen: Ints = order[first]
    return chosen


def _levels_without_own_items(problem: Problem, partition: Partition) -> tuple[Ints, Ints]:
    """Bytes at each node of items that belong to no block, with workspace; and of those that the node does not write.

    Both include constants.
    """
    n = problem.n
    items = np.flatnonzero(~partition.internal)
    last = [n - 1 if problem.lasting[i] else max(problem.readers[i], default=int(problem.producer[i])) for i in items]
    birth, death, sizes = problem.producer[items], np.array(last, dtype=np.int64), problem.bytes[items]
    level = live_bytes(birth, death, sizes, n) + problem.workspace
    crossing = live_bytes(birth + 1, np.maximum(birth, death), sizes, n)
    return level + problem.constant_bytes, crossing + problem.constant_bytes
