"""What a block looks like by itself, in numbers of its own, so that equal blocks are recognised and get the same options."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from remat_planner.solvers.problem import Problem
from remat_planner.solvers.two_level.blocks import Block, Partition


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """One block, in numbers of its own: nodes, items and nodes of its stretch of the backward each count from 0.

    Blocks with equal ``key`` have the same options. Outer items are those that the block reads or writes and does not own.

    Attributes:
        cost, workspace, replay: of each node.
        reads, writes: own items of each node.
        outer_reads: outer items of each node.
        outer_bytes_written: bytes of outer items that each node writes.
        bytes, producer: of each own item.
        outer_bytes: of each outer item.
        outer_until: for each outer item the node of the stretch up to which it is resident anyway: -1 if it is gone before, the
            length of the stretch if it stays longer.
        window: own items read by each node of the stretch.
        items: numbers of the own items in the problem.
    """

    cost: tuple[float, ...]
    workspace: tuple[int, ...]
    replay: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    outer_reads: tuple[tuple[int, ...], ...]
    outer_bytes_written: tuple[int, ...]
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


def patterns(problem: Problem, partition: Partition) -> list[BlockPattern]:
    """The pattern of every block."""
    internal = partition.internal.tolist()
    return [_pattern(problem, block, internal) for block in partition.blocks]


def _pattern(problem: Problem, block: Block, internal: list[bool]) -> BlockPattern:
    nodes = range(block.start, block.end)
    reads, writes = problem.reads, problem.writes
    items = [i for node in nodes for i in writes[node] if internal[i]]
    own = {item: number for number, item in enumerate(items)}
    outer: dict[int, int] = {}
    for node in nodes:
        for i in reads[node]:
            if i not in own:
                outer.setdefault(i, len(outer))

    def numbers(of: dict[int, int], node: int) -> tuple[int, ...]:
        return tuple(of[i] for i in reads[node] if i in of)

    return BlockPattern(
        cost=tuple(problem.cost[block.start : block.end].tolist()),
        workspace=tuple(problem.workspace[block.start : block.end].tolist()),
        replay=tuple(problem.replay[block.start : block.end].tolist()),
        reads=tuple(numbers(own, node) for node in nodes),
        writes=tuple(tuple(own[i] for i in writes[node] if i in own) for node in nodes),
        outer_reads=tuple(numbers(outer, node) for node in nodes),
        outer_bytes_written=tuple(sum(int(problem.bytes[i]) for i in writes[node] if i not in own) for node in nodes),
        bytes=tuple(int(problem.bytes[i]) for i in items),
        producer=tuple(int(problem.producer[i]) - block.start for i in items),
        outer_bytes=tuple(int(problem.bytes[i]) for i in outer),
        outer_until=tuple(_resident_until(problem, block, i) for i in outer),
        window=tuple(numbers(own, node) for node in range(block.opens, block.closes)),
        items=tuple(items),
    )


def _resident_until(problem: Problem, block: Block, item: int) -> int:
    """The node of the block's stretch up to which an outer item is resident, as in ``BlockPattern.outer_until``."""
    length = block.closes - block.opens
    if problem.lasting[item]:
        return length
    last_read = problem.readers[item][-1] if problem.readers[item] else -1
    return min(max(last_read - block.opens, -1), length)
