"""One option for each of several parts of a step, so that every moment of the step fits and the sum of their costs is least.

A multiple-choice knapsack with one row for each moment (Kellerer, Pferschy & Pisinger 2004, chapter 11), as an integer program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remat_planner.solvers.milp.program import Program

# Rows are scaled so that the limit is this: HiGHS accepts a violation of 1e-6.
_SCALE = 1e4
_ATTEMPTS = 5
_GAP = 1e-3  # of the cost of the options that cost most


@dataclass(frozen=True)
class Moment:
    """Bytes at one moment: ``fixed``, and what each part adds to them by the option that it takes.

    Attributes:
        fixed: bytes whatever is chosen; may be negative.
        of: for each part that matters here the bytes of each of its options.
    """

    fixed: int
    of: Mapping[int, Sequence[int]]

    def bytes(self, choice: Sequence[int]) -> int:
        """Bytes where part ``i`` takes option ``choice[i]``."""
        return self.fixed + sum(sizes[choice[part]] for part, sizes in self.of.items())


def select(
    costs: Sequence[Sequence[float]], moments: Sequence[Moment], limit: int, *, seconds: float = 10.0
) -> tuple[int, ...] | None:
    """The option of each part with the least cost in sum such that no moment has more than ``limit`` bytes.

    Args:
        costs: for each part the cost of each of its options.
        moments: what must fit.
        limit: bytes.
        seconds: time limit.

    Returns:
        The number of an option for each part, or None where none fits or none was found in the time.
    """
    scale = _SCALE / max(limit, 1)
    allowed = float(limit)
    for _ in range(_ATTEMPTS):
        program, options = _choices(costs)
        for moment in moments:
            terms = {options[p][o]: scale * size for p, sizes in moment.of.items() for o, size in enumerate(sizes)}
            program.at_most(terms, scale * (allowed - moment.fixed))
        choice = _solved(program, options, seconds, _GAP * sum(map(max, costs)))
        if choice is None:
            return None
        excess = max((moment.bytes(choice) - limit for moment in moments), default=0)
        if excess <= 0:
            return choice
        allowed -= excess  # the program's tolerance let it through
    return None


def select_lowest(costs: Sequence[Sequence[float]], moments: Sequence[Moment], *, seconds: float = 10.0) -> tuple[int, ...]:
    """The option of each part for which the highest moment has the fewest bytes."""
    program, options = _choices([[0.0] * len(of) for of in costs])
    scale = _SCALE / max(max((abs(m.fixed) for m in moments), default=1), 1)
    peak = program.column(1.0, -10 * _SCALE * len(costs), None)
    for moment in moments:
        terms = {options[p][o]: scale * size for p, sizes in moment.of.items() for o, size in enumerate(sizes)}
        program.at_most({**terms, peak: -1.0}, -scale * moment.fixed)
    return _solved(program, options, seconds, 0.0) or tuple(0 for _ in costs)


def _choices(costs: Sequence[Sequence[float]]) -> tuple[Program, list[list[int]]]:
    program = Program()
    options = [[program.column(cost, integer=True) for cost in of] for of in costs]
    for columns in options:
        program.at_least(dict.fromkeys(columns, 1.0), 1.0)
        program.at_most(dict.fromkeys(columns, 1.0), 1.0)
    return program, options


def _solved(program: Program, options: list[list[int]], seconds: float, gap: float) -> tuple[int, ...] | None:
    values = program.solve(seconds=seconds, gap=gap).values
    if values is None:
        return None
    return tuple(max(range(len(columns)), key=lambda o: values[columns[o]]) for columns in options)
