"""Choose one option for each of several parts of a step: every moment fits its limit, and the sum of the costs is least.

A multiple-choice knapsack with one row for each moment (Kellerer, Pferschy & Pisinger 2004, chapter 11), as an integer program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remat_planner.solvers.milp.program import MixedIntegerProgram

# Rows are scaled to this limit. HiGHS accepts a violation of 1e-6, which is then 1e-10 of the limit.
_SCALE = 1e4
# Solves, each with the limit lowered by the bytes by which the last choice exceeded it: that is HiGHS's tolerance.
_ATTEMPTS = 5
# An answer may cost this much more than the best, as a share of the cost of the dearest options.
_GAP = 1e-3


@dataclass(frozen=True)
class Moment:
    """Bytes at one moment of the step: ``fixed``, plus bytes of each part that depend on its option.

    Attributes:
        fixed: bytes whatever is chosen; may be negative.
        of: for each part that matters here the bytes of each of its options.
    """

    fixed: int
    of: Mapping[int, Sequence[int]]

    def bytes(self, choice: Sequence[int]) -> int:
        """Bytes where part ``i`` takes option ``choice[i]``."""
        return self.fixed + sum(sizes[choice[part]] for part, sizes in self.of.items())


@dataclass(frozen=True)
class Room:
    """Bytes of memory beside the device, and for each part what each of its options takes there.

    Attributes:
        size: bytes; a multiple of the block of all sizes, so that HiGHS's tolerance is less than one block.
        of: as in ``Moment``.
    """

    size: int
    of: Mapping[int, Sequence[int]]


def select(
    costs: Sequence[Sequence[float]],
    moments: Sequence[Moment],
    limit: int,
    *,
    rooms: Sequence[Room] = (),
    seconds: float = 10.0,
) -> tuple[int, ...] | None:
    """The cheapest choice of options with which no moment has more than ``limit`` bytes, and that the ``rooms`` hold.

    Args:
        costs: for each part the cost of each of its options.
        moments: the moments that must fit.
        limit: bytes.
        rooms: each must hold what the options take there.
        seconds: time limit.

    Returns:
        The index of an option for each part, or None where no choice fits or none was found in time.
    """
    scale = _SCALE / max(limit, 1)
    allowed = float(limit)
    for _ in range(_ATTEMPTS):
        program, options = _choices(costs, rooms)
        for moment in moments:
            program.at_most(_terms(options, moment.of, scale), scale * (allowed - moment.fixed))
        choice = _solved(program, options, seconds, _GAP * sum(map(max, costs)))
        if choice is None:
            return None
        excess = max((moment.bytes(choice) - limit for moment in moments), default=0)
        if excess <= 0:
            return choice
        allowed -= excess
    return None


def select_lowest(
    costs: Sequence[Sequence[float]], moments: Sequence[Moment], *, rooms: Sequence[Room] = (), seconds: float = 10.0
) -> tuple[int, ...]:
    """The choice of options for which the highest moment has the fewest bytes. Args as in ``select``."""
    program, options = _choices([[0.0] * len(of) for of in costs], rooms)
    scale = _SCALE / max(max((abs(m.fixed) for m in moments), default=1), 1)
    peak = program.column(1.0, -10 * _SCALE * len(costs), None)
    for moment in moments:
        program.at_most({**_terms(options, moment.of, scale), peak: -1.0}, -scale * moment.fixed)
    return _solved(program, options, seconds, 0.0) or tuple(0 for _ in costs)


def _terms(options: Sequence[Sequence[int]], of: Mapping[int, Sequence[int]], scale: float) -> dict[int, float]:
    return {options[part][o]: scale * size for part, sizes in of.items() for o, size in enumerate(sizes)}


def _choices(costs: Sequence[Sequence[float]], rooms: Sequence[Room]) -> tuple[MixedIntegerProgram, list[list[int]]]:
    program = MixedIntegerProgram()
    options = [[program.column(cost, integer=True) for cost in of] for of in costs]
    for columns in options:
        program.at_least(dict.fromkeys(columns, 1.0), 1.0)
        program.at_most(dict.fromkeys(columns, 1.0), 1.0)
    for room in rooms:
        program.at_most(_terms(options, room.of, _SCALE / max(room.size, 1)), _SCALE if room.size else 0.0)
    return program, options


def _solved(program: MixedIntegerProgram, options: list[list[int]], seconds: float, gap: float) -> tuple[int, ...] | None:
    values = program.solve(seconds=seconds, gap=gap).values
    if values is None:
        return None
    return tuple(max(range(len(columns)), key=lambda o: values[columns[o]]) for columns in options)
