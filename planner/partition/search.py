"""Which values a compiled forward saves: the fastest set within a budget that a local search finds.

A move saves a value or not, or saves what it is computed from in its place; first the same value in all layers at once, then
each alone. As long as the step exceeds the budget, the move that takes away most bytes over the budget for its seconds is made,
summed over all kernels, since the highest kernel alone would not show a step in the right direction. Then moves that save time
within the budget are made until there is none.

The search begins with what a mixed-integer program chooses. The program leaves bytes out, so it is solved again with its budget
lowered by what was too much.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from remat_planner.planner.partition.program import fastest_within, lowest
from remat_planner.tracer.fusion import FusedStep, Judged

_Move = tuple[frozenset[int], frozenset[int]]  # to save, to drop
_LEAST_GAIN = 1e-7  # of the step's seconds: less is rounding
_NEAR = 1.005  # of the fastest step's seconds: good enough
_DESCENDING = 0.75  # of the time, before the sets that fit are polished
_TO_FIT = 3.0  # of the time, where none fits before: compiled in vain it would take longer
_ROUNDS = 6  # of the program, whose budget is lowered by this part of what was too much, and by this part of it at most
_STEP, _LARGEST_STEP = 0.7, 0.1


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

        The descents begin with the program's set and with the fastest one; where these take more than a little time, also with
        that of all results of kernels and reductions, and with none, from which other valleys are reached.
        """
        if self.fastest.peak <= budget:
            return Found(self.fastest, fits=True)
        start = self._clock()
        found: list[Found] = []
        for saved in self._starts(budget):
            share = _DESCENDING if any(other.fits for other in found) else _TO_FIT
            if found and self._clock() >= start + share * self._seconds:
                break
            found.append(self._descended(saved, budget, start + share * self._seconds))
            if found[-1].fits and self._is_near(found[-1].judged):
                break
        found.sort(key=_rank)
        best = found[0]
        deadline = max(start + self._seconds, self._clock() + (1.0 - _DESCENDING) * self._seconds)
        for other in found:
            if other.fits and self._clock() < deadline:
                polished = self._polished(self._set(other.judged), budget, deadline)
                best = min(best, Found(polished, fits=True), key=_rank)
                if self._is_near(best.judged):
                    break
        return best

    def _starts(self, budget: int) -> Iterator[frozenset[int]]:
        values = self.step.values.values
        yield self._of_program(budget)
        yield self._set(self.fastest)
        yield frozenset(v for v in self.step.choice if values[v].kind != "pointwise")
        yield frozenset()

    def _is_near(self, judged: Judged) -> bool:
        return judged.seconds < _NEAR * self.fastest.seconds

    def _of_program(self, budget: int) -> frozenset[int]:
        """The set of the program that is nearest to ``budget``, its budget lowered until the peak is within."""
        best: Judged | None = None
        target = budget
        for _ in range(_ROUNDS):
            solution = fastest_within(self.step, target)
            if solution.saved is None:
                break
            judged = self._judge(solution.saved)
            best = judged if best is None else min(best, judged, key=lambda j: (max(j.peak, budget), j.seconds))
            if judged.peak <= budget:
                break
            target -= min(math.ceil(_STEP * (judged.peak - budget)), math.ceil(_LARGEST_STEP * budget))
        if best is None:
            return lowest(self.step) or frozenset()
        return self._set(best)

    def _descended(self, saved: frozenset[int], budget: int, deadline: float) -> Found:
        """The set that moves lead to from ``saved``, or the lowest one on the way."""
        judged = lowest = self._judge(saved)
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
        return Found(judged, fits=True) if judged.peak <= budget else Found(lowest, fits=False)

    def _polished(self, saved: frozenset[int], budget: int | None, deadline: float) -> Judged:
        judged = self._judge(saved)
        least = judged.seconds  # seconds may rise above these by rounding only, or the same moves would come again
        improved = True
        while improved and self._clock() < deadline:
            improved = False
            for add, drop in self._moves:
                tried = (saved | add) - drop
                if tried == saved:
                    continue
                candidate = self._judge(tried)
                if (budget is None or candidate.peak <= budget) and _better(candidate, judged, least):
                    saved, judged, improved = tried, candidate, True
                    least = min(least, judged.seconds)
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


def _better(candidate: Judged, judged: Judged, least: float) -> bool:
    rounding = _LEAST_GAIN * least
    return candidate.seconds < least - rounding or (candidate.seconds <= least + rounding and candidate.peak < judged.peak)


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
