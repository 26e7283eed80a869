"""Which values a compiled forward saves: the fastest set within a budget that a local search finds.

A move saves a value or not, or saves what it is computed from in its place; first the same value in all layers at once, then
each alone. As long as the step exceeds the budget, the move that takes away most bytes over the budget for its seconds is made,
summed over all kernels, since the highest kernel alone would not show a step in the right direction. Then moves that save time
within the budget are made until there is none.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from remat_planner.tracer.fusion import FusedStep, Judged

_Move = tuple[frozenset[int], frozenset[int]]  # to save, to drop
_LEAST_GAIN = 1e-7  # of the step's seconds: less is rounding
_NEAR = 1.005  # of the fastest step's seconds: good enough


@dataclass(frozen=True, slots=True)
class Found:
    """Attributes:
    judged: the fastest step within the budget, or the one of the least peak where there is none.
    fits: whether it is within the budget.
    """

    judged: Judged
    fits: bool


class Search:
    """Finds saved sets of one step for budgets one after the other; what was judged once is not judged again.

    Attributes:
        step: whose sets are judged.
    """

    def __init__(self, step: FusedStep, *, seconds: float, clock: Callable[[], float] = time.process_time) -> None:
        self.step = step
        self._seconds = seconds
        self._clock = clock
        self._judged: dict[frozenset[int], Judged] = {}
        self._moves = list(_moves(step))
        self._fastest: Judged | None = None

    @property
    def fastest(self) -> Judged:
        """The fastest step without a budget."""
        if self._fastest is None:
            values = self.step.values.values
            start = frozenset(v for v in self.step.choice if values[v].kind != "pointwise")
            self._fastest = self._polished(start, None, self._clock() + self._seconds)
        return self._fastest

    def within(self, budget: int) -> Found:
        """The fastest set found whose peak is at most ``budget`` bytes, those that are there all the time left out.

        The descent begins with the fastest set; where that takes more than a little time, also with that of all results of
        kernels and reductions, and with none, from which other valleys are reached.
        """
        deadline = self._clock() + self._seconds
        values = self.step.values.values
        kernels = frozenset(v for v in self.step.choice if values[v].kind != "pointwise")
        best = self._descended(self._set(self.fastest), budget, deadline)
        for start in (kernels, frozenset[int]()):
            near = best.fits and best.judged.seconds < _NEAR * self.fastest.seconds
            if near or self._clock() >= deadline:
                break
            best = min(best, self._descended(start, budget, deadline), key=_rank)
        return best

    def _descended(self, saved: frozenset[int], budget: int, deadline: float) -> Found:
        judged = self._judge(saved)
        lowest = judged
        queue = [(math.inf, k) for k in range(len(self._moves))]  # of the ratio when it was judged last
        while judged.peak > budget and self._clock() < deadline:
            waiting, made = sorted(queue, reverse=True), False
            queue = []
            while waiting and not made:
                _, k = waiting.pop(0)
                add, drop = self._moves[k]
                tried = (saved | add) - drop
                candidate = self._judge(tried)
                gain = judged.excess(budget) - candidate.excess(budget)
                ratio = gain / max(candidate.seconds - judged.seconds, _LEAST_GAIN * judged.seconds)
                if gain > 0 and (not waiting or ratio >= waiting[0][0]):
                    saved, judged, made = tried, candidate, True
                    queue.append((ratio, k))
                elif gain > 0:
                    insort(waiting, (ratio, k), key=lambda entry: -entry[0])
                else:
                    queue.append((ratio, k))
            queue += waiting
            if not made:
                break
            lowest = min(lowest, judged, key=lambda j: j.peak)
        if judged.peak > budget:
            return Found(lowest, fits=False)
        return Found(self._polished(saved, budget, max(deadline, self._clock() + self._seconds / 4)), fits=True)

    def _polished(self, saved: frozenset[int], budget: int | None, deadline: float) -> Judged:
        judged = self._judge(saved)
        improved = True
        while improved and self._clock() < deadline:
            improved = False
            for add, drop in self._moves:
                tried = (saved | add) - drop
                if tried == saved:
                    continue
                candidate = self._judge(tried)
                if (budget is None or candidate.peak <= budget) and _better(candidate, judged):
                    saved, judged, improved = tried, candidate, True
                if self._clock() >= deadline:
                    break
        return judged

    def _judge(self, saved: frozenset[int]) -> Judged:
        judged = self._judged.get(saved)
        if judged is None:
            judged = self._judged[saved] = self.step.evaluate(saved)
        return judged

    def _set(self, judged: Judged) -> frozenset[int]:
        return judged.saved & frozenset(self.step.choice)


def _rank(found: Found) -> tuple[bool, float]:
    return not found.fits, found.judged.seconds if found.fits else found.judged.peak


def _better(candidate: Judged, judged: Judged) -> bool:
    difference = judged.seconds - candidate.seconds
    least = _LEAST_GAIN * judged.seconds
    return difference > least or (difference > -least and candidate.peak < judged.peak)


def _moves(step: FusedStep) -> Iterator[_Move]:
    choice = step.choice
    readers: dict[int, list[str]] = defaultdict(list)
    for value in step.values.values:
        for r in value.reads:
            readers[r].append(value.operator)
    alike: dict[object, list[int]] = {}
    for v in choice:
        alike.setdefault(_form(step, v, readers), []).append(v)
    for group in alike.values():
        if len(group) > 1:
            yield from _moves_of(step, group)
    for v in choice:
        yield from _moves_of(step, [v])


def _moves_of(step: FusedStep, group: Iterable[int]) -> Iterator[_Move]:
    these = frozenset(group)
    before = frozenset(r for v in these for r in _sources(step, v)) - these
    yield frozenset(), these
    yield these, frozenset()
    if before:
        yield before, these
        yield these, before


def _sources(step: FusedStep, v: int) -> set[int]:
    """The nearest values before ``v`` that may be saved."""
    values, may = step.values.values, set(step.choice)
    found: set[int] = set()
    stack = list(values[v].reads)
    while stack:
        r = stack.pop()
        if r in may:
            found.add(r)
        elif values[r].kind == "part":
            stack.extend(values[r].reads)
    return found


def _form(step: FusedStep, v: int, readers: Mapping[int, list[str]]) -> object:
    """What the same value of another layer has in common with ``v``."""
    values = step.values.values
    value = values[v]
    return value.operator, value.bytes, value.elements, tuple(values[r].operator for r in value.reads), tuple(readers[v])
