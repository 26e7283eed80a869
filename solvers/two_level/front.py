"""The front of options of one block, from keeping everything to keeping nothing.

Which items to keep, in a given number of bytes, so that recomputing the others is cheapest is a closure problem with one
knapsack row: a small integer program. Sweeping the bytes gives the front.
"""

from __future__ import annotations

from remat_planner.solvers.deadline import Deadline
from remat_planner.solvers.milp import MixedIntegerProgram
from remat_planner.solvers.two_level.option import BlockOption, option_for
from remat_planner.solvers.two_level.options import DEFAULT_OPTIONS, TwoLevelOptions
from remat_planner.solvers.two_level.pattern import BlockPattern


def front(pattern: BlockPattern, deadline: Deadline, options: TwoLevelOptions = DEFAULT_OPTIONS) -> list[BlockOption]:
    """Options from the one that keeps most to the one that keeps least, none both larger and slower than another."""
    first = _cheapest(pattern, None, deadline, options)
    if first is None:
        return [option_for(pattern, range(len(pattern.bytes)))]
    points = [option_for(pattern, first)]
    step = max(1, points[0].saved // options.most_options)
    while points[-1].saved > 0 and not deadline.expired:
        kept = _cheapest(pattern, points[-1].saved - step, deadline, options)
        if kept is None:
            break
        point = option_for(pattern, kept)
        if point.saved >= points[-1].saved:
            break
        points.append(point)
    least = option_for(pattern, ())
    if least.saved < points[-1].saved:
        points.append(least)
    return points


def _cheapest(pattern: BlockPattern, most: int | None, deadline: Deadline, options: TwoLevelOptions) -> list[int] | None:
    """The items to keep, in at most so many bytes, with which recomputation is cheapest; None where it cannot be done."""
    program = MixedIntegerProgram()
    total = sum(pattern.bytes) + sum(pattern.outer_bytes) + sum(pattern.replay)
    byte_unit = max(total, 1) / 1000.0
    cost_unit = max(sum(pattern.cost), 1e-300) / 1000.0
    # Of equally fast answers we want the one that keeps least: all bytes together weigh a hundred-thousandth of all seconds.
    per_byte = 1e-5 * 1000.0 / max(total, 1)
    needed = {item for read in pattern.window for item in read}
    wanted = _ancestors(pattern, needed)
    keep = {i: program.column(per_byte * pattern.bytes[i], integer=True) for i in sorted(wanted)}
    nodes = sorted({pattern.producer[i] for i in wanted})
    again = {v: program.column(pattern.cost[v] / cost_unit + per_byte * pattern.replay[v], integer=True) for v in nodes}

    def available(item: int) -> dict[int, float]:
        return {keep[item]: 1.0, again[pattern.producer[item]]: 1.0}

    saved = {keep[i]: pattern.bytes[i] / byte_unit for i in keep if pattern.bytes[i]}
    retained: dict[int, int] = {}  # columns of outer items that would be gone when a recomputation reads them
    for v, column in again.items():
        if pattern.replay[v]:
            saved[column] = pattern.replay[v] / byte_unit
        for i in pattern.reads[v]:
            program.at_least({**available(i), column: -1.0}, 0.0)
        for outer in pattern.outer_reads[v]:
            if pattern.outer_until[outer] < 0 and pattern.outer_bytes[outer]:
                if outer not in retained:
                    retained[outer] = program.column(per_byte * pattern.outer_bytes[outer])
                    saved[retained[outer]] = pattern.outer_bytes[outer] / byte_unit
                program.at_least({retained[outer]: 1.0, column: -1.0}, 0.0)
    for item in needed:
        program.at_least(available(item), 1.0)
    if most is not None:
        program.at_most(saved, (most + 0.5) / byte_unit)
    outcome = program.solve(seconds=min(options.seconds_per_option, deadline.remaining), gap=options.gap)
    if outcome.values is None:
        return None
    return [i for i, column in keep.items() if outcome.values[column] > 0.5]


def _ancestors(pattern: BlockPattern, needed: set[int]) -> set[int]:
    """Own items that recomputing ``needed`` may need, themselves included."""
    ancestors = set(needed)
    pending = list(needed)
    while pending:
        for item in pattern.reads[pattern.producer[pending.pop()]]:
            if item not in ancestors:
                ancestors.add(item)
                pending.append(item)
    return ancestors
