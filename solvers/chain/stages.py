"""A training step seen as a chain of stages, for chain solvers and for policies that checkpoint between layers.

The forward is cut where a single item crosses: it is written before the cut and read after it. Between two cuts lies a *stage*.
A checkpoint at a cut retains the item that crosses it. Items that cross many cuts (rope tables, masks, an encoder's output, the
long skips of a U-Net) would leave no cut at all; they are *shared*: retained until their last use. How far an item must reach
to count as shared is a choice, so one graph has several views as a chain.

The backward is cut where it turns from the stage behind a cut to the stage before it. On a graph that is no chain these parts
overlap: some backward ops of a stage run among those of the stage before it. The items that they read stay until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from remat_planner.solvers.problem import Problem


class Forward:
    """The part of a step that can be cut: the nodes before the loss, and the items of theirs that the backward reads.

    Attributes:
        problem: the reduced graph.
        start: the first node of the loss or the backward; ``problem.n`` where there is neither.
        main: the nodes of the forward proper, ascending; auxiliary nodes are not among them.
        fixed: bool[m], items that are never recomputed: those of pinned nodes, in-place results and their bases, inputs of the
            caller's loss, results (they stay anyway).
        last: for each item the last position in ``main`` that reads it, -1 if none does.
        place: for each item the position in ``main`` of its producer, -1 if another node writes it.
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
    """bool[m]: items that a policy retains rather than recomputes (``Forward.fixed``)."""
    frozen = problem.pinned.copy()
    frozen[problem.producer[problem.in_place]] = True
    frozen[problem.producer[problem.base[problem.in_place]]] = True
    fixed: np.ndarray = frozen[problem.producer] | problem.lasting
    for node in np.flatnonzero(problem.outside):
        fixed[list(problem.reads[node])] = True
    return fixed


@dataclass(frozen=True)
class Stage:
    """The nodes between two cuts, and their backward.

    Attributes:
        nodes: the forward nodes, ascending.
        inputs: the items that cross into it, without shared and fixed ones.
        saved: the items of its own that its backward reads, without shared and fixed ones.
        backward: the first and one past the last node of its backward.
        made: the items that its nodes write, without shared and fixed ones.
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
        forward: the forward that was cut.
        stages: in the order of the forward.
        shared: items retained until their last use because they cross several cuts.
    """

    forward: Forward
    stages: tuple[Stage, ...]
    shared: frozenset[int]

    @cached_property
    def words(self) -> str:
        """A description of this view, for a solution's note."""
        problem = self.forward.problem
        n = len(self.stages)
        text = f"chain of {n} stage{'s' * (n != 1)} between cut points"
        if self.shared:
            held = int(problem.bytes[list(self.shared)].sum())
            text += f", {len(self.shared)} values that cross several of them ({held:,} bytes) held"
        return text


def chains(forward: Forward, *, share: bool = True) -> Iterator[Chain]:
    """The views of a graph as a chain, coarse ones (fewer shared items) first; none with fewer than two stages.

    Without ``share`` only the view in which no item is shared, if it has a cut.
    """
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
        reach = reach // 2 if share else 0


def _cuts(forward: Forward, shared: set[int]) -> list[int]:
    """Positions in ``main`` that at most one item crosses, not counting the shared ones.

    Of positions that the same item crosses only the first: the nodes between them pass nothing on (a normalization's counter).
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

    Items that cross more than one of the cuts are shared.
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
    # A backward op that reads an input of a stage, or an item of its own that is no input of the next, belongs to its backward.
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
            # An item of this stage that the backward of the next one reads is that stage's input.
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
    """Where the backward of each stage begins, so that the fewest reads lie outside the backward of their stage.

    ``asked`` has a row (position in the backward, stage) per read. The backward of the last stage begins at 0, that of stage i
    ends where that of i - 1 begins; of equally good positions the latest counts.
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
