"""A training step seen as a chain of stages: what chain solvers, and policies that checkpoint between layers, work on.

The forward is cut where a single item crosses from what has run to what has not. Between two cuts lies a *stage*. The item
that crosses a cut is what a checkpoint there holds. Items that cross many cuts (rope tables, masks, an encoder's output, the
long skips of a U-Net) would leave no cut at all; they are *shared*: held until their last use, in exchange for the cuts. How
long an item must reach to count as shared is a choice, so one graph has several views as a chain.

The backward is cut where it turns from what lies behind a cut to what lies before it. On a graph that is no chain the parts
overlap: some backward ops of a stage run later than others that belong before it. What they read is then held on, never lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from remat_planner.solvers.problem import Problem


class Forward:
    """The part of a step that can be cut: what runs before the loss, and what the backward reads of it.

    Attributes:
        problem: the reduced graph.
        start: the first node of the loss or the backward; ``problem.n`` where there is neither.
        main: the nodes of the forward proper, ascending; auxiliary nodes are not among them.
        fixed: bool[m], items that are never computed again: of pinned nodes, in-place results and their bases, what the
            caller's loss reads, results (they stay anyway).
        last: for each item the last position in ``main`` that reads it, -1 if none does.
        place: for each item the position in ``main`` that makes it, -1 where another node does.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        later = np.flatnonzero(~problem.forward | problem.outside)
        self.start = int(later[0]) if len(later) else problem.n
        chosen = problem.forward & ~problem.auxiliary & ~problem.outside
        chosen[self.start :] = False
        self.main: list[int] = np.flatnonzero(chosen).tolist()
        self.fixed = fixed_items(problem)
        position = {node: p for p, node in enumerate(self.main)}
        self.place = [position.get(node, -1) for node in problem.producer.tolist()]
        self.last = [max((position[node] for node in readers if node in position), default=-1) for readers in problem.readers]

    @cached_property
    def needed(self) -> tuple[tuple[int, ...], ...]:
        """For each node from ``start`` on (offset by it) the items of ``main`` that it reads, directly or through nodes that
        have not run by then (auxiliary work of the forward)."""
        problem = self.problem
        through: dict[int, frozenset[int]] = {}
        rows = []
        for node in range(problem.n):
            items: set[int] = set()
            for item in problem.reads[node]:
                if self.place[item] >= 0:
                    items.add(item)
                elif (producer := int(problem.producer[item])) < self.start:
                    items |= through.get(producer, frozenset())
            if node >= self.start:
                rows.append(tuple(sorted(items)))
            else:
                through[node] = frozenset(items)
        return tuple(rows)

    @cached_property
    def saved(self) -> frozenset[int]:
        """The items of ``main`` that the backward reads."""
        return frozenset(item for items in self.needed for item in items)


def fixed_items(problem: Problem) -> np.ndarray:
    """bool[m]: items that a policy holds rather than computing them again (``Forward.fixed``)."""
    frozen = problem.pinned.copy()
    frozen[problem.producer[problem.in_place]] = True
    frozen[problem.producer[problem.base[problem.in_place]]] = True
    fixed: np.ndarray = frozen[problem.producer] | problem.lasting
    for node in np.flatnonzero(problem.outside):
        fixed[list(problem.reads[node])] = True
    return fixed


@dataclass(frozen=True)
class Stage:
    """What lies between two cuts.

    Attributes:
        nodes: the forward nodes, ascending.
        inputs: the items that cross into it, shared and fixed ones left out.
        saved: the items of its own that its backward reads (shared and fixed ones left out).
        backward: the first and one past the last node of its backward.
        made: the items that its nodes make, shared and fixed ones left out.
    """

    nodes: tuple[int, ...]
    inputs: tuple[int, ...]
    saved: tuple[int, ...]
    backward: tuple[int, int]
    made: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    """A view of a graph as a chain.

    Attributes:
        forward: what was cut.
        stages: in the order of the forward.
        shared: items held until their last use because they cross several cuts.
    """

    forward: Forward
    stages: tuple[Stage, ...]
    shared: frozenset[int]

    @cached_property
    def words(self) -> str:
        """What this view is, for a solution's note."""
        problem = self.forward.problem
        n = len(self.stages)
        text = f"chain of {n} stage{'s' * (n != 1)} between cut points"
        if self.shared:
            held = int(problem.bytes[list(self.shared)].sum())
            text += f", {len(self.shared)} values that cross several of them ({held:,} bytes) held"
        return text


def chains(forward: Forward) -> Iterator[Chain]:
    """The views of a graph as a chain, coarse ones (less is shared) first; none with fewer than two stages."""
    reach = len(forward.main)
    seen: set[tuple[int, ...]] = set()
    while reach >= 1:
        shared = {
            item
            for item, (made, last) in enumerate(zip(forward.place, forward.last, strict=True))
            if made >= 0 and last - made > reach and not forward.fixed[item] and forward.problem.bytes[item]
        }
        cuts = _cuts(forward, shared)
        if cuts and tuple(cuts) not in seen:
            seen.add(tuple(cuts))
            yield chain_at(forward, cuts)
        reach //= 2


def _cuts(forward: Forward, shared: set[int]) -> list[int]:
    """Positions in ``main`` before which at most one item crosses, other than the shared ones.

    Of those that the same item crosses only the first: between them lies what passes nothing on (a normalization's counter).
    """
    change = np.zeros((2, len(forward.main) + 1), dtype=np.int64)
    for item, (made, last) in enumerate(zip(forward.place, forward.last, strict=True)):
        if 0 <= made < last and not forward.fixed[item] and item not in shared and forward.problem.bytes[item]:
            change[:, made + 1] += (1, item + 1)
            change[:, last + 1] -= (1, item + 1)
    crossing, which = np.cumsum(change[:, :-1], axis=1)
    cuts: list[int] = []
    for p in range(1, len(forward.main)):
        if crossing[p] == 0 or (crossing[p] == 1 and not (cuts and which[p] == which[cuts[-1]])):
            cuts.append(p)
    return cuts


def chain_at(forward: Forward, cuts: Sequence[int]) -> Chain:
    """The chain whose stages begin at the start and at these positions of ``forward.main`` (ascending, none of them 0).

    What crosses more than one of the cuts is shared.
    """
    problem = forward.problem
    begins = [0, *cuts]
    stage_of = np.searchsorted(begins, np.arange(len(forward.main)), side="right") - 1
    shared: set[int] = set()
    inputs: list[list[int]] = [[] for _ in begins]
    home: dict[int, int] = {}
    made: list[list[int]] = [[] for _ in begins]
    for item, (place, last) in enumerate(zip(forward.place, forward.last, strict=True)):
        if place < 0 or forward.fixed[item]:
            continue
        first = int(stage_of[place])
        beyond = int(stage_of[last]) if last >= 0 else first
        if beyond > first + 1:
            shared.add(item)
            continue
        home[item] = first
        made[first].append(item)
        if beyond == first + 1:
            inputs[beyond].append(item)
    stages = len(begins)
    entering = [*map(set, inputs), set()]
    # A read of what enters a stage, or is made in it and does not enter the next one, is work of that stage's backward.
    asked = np.array(
        [
            (offset, home[item] + (item in entering[home[item] + 1]))
            for offset, items in enumerate(forward.needed)
            for item in items
            if item in home
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    begin = _backward_begins(asked, stages, problem.n - forward.start)
    saved: list[set[int]] = [set() for _ in begins]
    for offset, items in enumerate(forward.needed):
        for item in items:
            # What the backward of the next stage reads of this one is that stage's input.
            if item in home and (offset >= begin[home[item]] or item not in entering[home[item] + 1]):
                saved[home[item]].add(item)
    nodes = np.split(np.array(forward.main, dtype=np.int64), list(cuts))
    return Chain(
        forward,
        tuple(
            Stage(
                nodes=tuple(nodes[i].tolist()),
                inputs=tuple(inputs[i]),
                saved=tuple(sorted(saved[i])),
                backward=(forward.start + begin[i], forward.start + (begin[i - 1] if i else problem.n - forward.start)),
                made=tuple(made[i]),
            )
            for i in range(stages)
        ),
        frozenset(shared),
    )


def _backward_begins(asked: np.ndarray, stages: int, length: int) -> list[int]:
    """Where the backward of each stage begins: so that the least reads fall outside of the backward of their stage.

    ``asked`` has a row (position in the backward, stage) per read. The backward of the last stage begins at 0, that of stage i
    ends where that of i - 1 begins; among equals the latest position counts.
    """
    begin = [0] * stages
    end = length
    for i in range(stages - 1):
        below = np.bincount(asked[asked[:, 1] <= i, 0], minlength=length + 1)
        above = np.bincount(asked[asked[:, 1] > i, 0], minlength=length + 1)
        # Cut at p: reads below before p and reads above from p on are misplaced.
        misplaced = np.concatenate(([0], np.cumsum(below)[:-1])) + (above.sum() - np.concatenate(([0], np.cumsum(above)[:-1])))
        best = np.flatnonzero(misplaced[: end + 1] == misplaced[: end + 1].min())
        begin[i] = end = int(best[-1])
    return begin
