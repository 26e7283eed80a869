"""The dynamic program of pofo against enumeration of its model, on small chains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest

from remat_planner.solvers.chain import Link, Stages, offloading_segments, table
from tests.solvers.textbook_chain import textbook_stages

pytestmark = pytest.mark.slow  # the first one compiles, where nothing is cached on disk


@dataclass(frozen=True)
class Part:
    """A segment with the decisions about it; ``option`` is -1 for a run, which is recomputed in ``slots``."""

    begin: int
    end: int
    option: int
    offloaded: bool
    slots: int


def series(n: int, options: int, slots: int, begin: int = 0) -> Iterator[tuple[Part, ...]]:
    """Every series of segments from stage ``begin`` on."""
    if begin == n:
        yield ()
        return
    parts = [(begin + 1, option, 0) for option in range(options)]
    parts += [(end, -1, memory) for end in range(begin + 1, n) for memory in range(slots + 1)]
    for (end, option, memory), offloaded in product(parts, [False, True] if begin else [False]):
        for rest in series(n, options, slots, end):
            yield (Part(begin, end, option, offloaded, memory), *rest)


def seconds(stages: Stages, backward: np.ndarray, best: np.ndarray, room: float, link: Link, parts: tuple[Part, ...]) -> float:
    """Seconds of a series in the model, by following the queues op by op, forward and then backward in reverse."""
    n = len(stages.inputs)
    entering = [0.0]
    for before, part in pairwise(parts):
        saved = stages.saved[before.begin, before.option] if before.option >= 0 else stages.inputs[part.begin]
        entering.append(float(saved))
    if sum(size for size, part in zip(entering, parts, strict=True) if part.offloaded) > link.budget:
        return math.inf

    def sweep(rate: float, *, reverse: bool) -> float:
        """Seconds of one direction; in reverse time, what is prefetched leaves as what is offloaded does."""
        clock, held, queue = 0.0, 0.0, 0.0
        for size, part in zip(entering, parts, strict=True):
            left = room - held - size
            if part.option >= 0:
                i, option = part.begin, part.option
                needs = stages.backward_needs[i, option] if reverse else stages.save_needs[1, i, option]
                extra = stages.save[1, i, option] - stages.forward[1, i]
                ops = [(float(needs), backward[i] + extra if reverse else stages.forward[1, i])]
            elif reverse:
                if part.slots > room:
                    return math.inf
                again = best[part.begin, part.end - 1, part.slots] + backward[part.begin : part.end].sum()
                ops = [(float(part.slots), float(again))]
            else:
                ops = [
                    (float(stages.forward_needs[1, i] + (stages.inputs[i] if i > part.begin else 0)), stages.forward[1, i])
                    for i in range(part.begin, part.end)
                ]
            if any(needs > left for needs, _ in ops):
                return math.inf
            # In the forward the copy of what enters begins with the segment; in reverse it begins after it. It waits its turn
            # in both, so it is not gone before what was queued earlier.
            behind = size if part.offloaded else 0.0
            wait = spent = 0.0
            for needs, took in ops:
                wait = max(wait, (queue + needs - left) / rate - spent)
                spent += took
            clock += wait + spent
            copied = rate * (wait + spent)
            queue = max(0.0, queue - copied) + behind if reverse else max(0.0, queue + behind - copied)
            held += 0.0 if part.offloaded else size
        return clock + queue / rate

    assert parts[-1].end == n
    return sweep(link.outgoing, reverse=False) + sweep(link.incoming, reverse=True)


@pytest.mark.parametrize(("seed", "n", "room"), [(0, 2, 6), (1, 3, 6), (2, 3, 7), (3, 3, 8), (4, 3, 5), (5, 4, 6)])
def test_the_optimum_of_small_chains_is_that_of_enumeration(seed: int, n: int, room: int) -> None:
    random = np.random.default_rng(seed)
    plain = textbook_stages(random.integers(1, 6, n) * 1.0, random.integers(1, 3, n + 1), random.integers(1, 3, n))
    lean = plain.saved - random.integers(0, 2, (n, 1))  # a second option: saves less and recomputes
    stages = plain._replace(
        save=np.concatenate([plain.save, plain.save + 1.5], axis=2),
        save_needs=np.repeat(plain.forward_needs[:, :, None], 2, axis=2),
        saved=np.concatenate([plain.saved, lean], axis=1),
        backward_needs=np.concatenate([plain.backward_needs, plain.backward_needs], axis=1),
    )
    backward = random.integers(1, 6, n).astype(float)
    best = table(stages, 8)
    may = np.ones((n, 3), dtype=np.bool_)
    for out, back, budget in ((0.25, 0.5, math.inf), (4.0, 1.0, math.inf), (0.5, 4.0, 3.0)):
        link = Link(out, back, budget)
        expected = min(seconds(stages, backward, best, room, link, parts) for parts in series(n, 2, room))
        found, took = offloading_segments(stages, backward, best, 1, room, link, may)
        assert took == pytest.approx(expected, rel=1e-5)
        parts = tuple(Part(*segment) for segment in found)
        assert parts
        assert seconds(stages, backward, best, room, link, parts) == pytest.approx(took, rel=1e-5)


def test_no_copies_give_the_persistent_optimum() -> None:
    stages = textbook_stages(np.arange(1.0, 7.0), np.array([1, 2, 1, 2, 1, 2, 1]), np.array([2, 1, 2, 1, 2, 1]))
    best = table(stages, 12)
    for room in range(4, 13):
        none = np.zeros((6, 2), dtype=np.bool_)
        _, took = offloading_segments(stages, np.ones(6), best, 1, room, Link(math.inf, math.inf, math.inf), none)
        assert took - 6 == pytest.approx(best[0, 5, room], rel=1e-5)


def test_a_fast_link_hides_everything_and_a_pool_without_room_takes_nothing() -> None:
    stages = textbook_stages(np.full(6, 2.0), np.ones(7, dtype=np.int64), np.full(6, 3))
    best, may = table(stages, 12), np.ones((6, 2), dtype=np.bool_)

    def took(rate: float, budget: float) -> float:
        return offloading_segments(stages, np.full(6, 4.0), best, 1, 8, Link(rate, rate, budget), may)[1]

    assert took(1e9, math.inf) == pytest.approx(36)
    assert took(100.0, 0.0) == pytest.approx(took(1e-9, math.inf)) == pytest.approx(best[0, 5, 8] + 24)
    assert 36 < took(0.5, math.inf) < took(1e-9, math.inf)
