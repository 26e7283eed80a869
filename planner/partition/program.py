"""The choice of saved values as a mixed-integer program: a relaxation of ``FusedStep.evaluate``.

Its costs are what recomputed kernels take and the arithmetic of recomputed loops; its bytes those that are in memory for sure
between the two graphs and while each kernel of the backward runs. It leaves out all else. So its optimum is a bound, and its
solution a set of values that is near a good one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from remat_planner.solvers.milp import MixedIntegerProgram, Outcome
from remat_planner.tracer.fusion import FusedStep, least_seconds, seconds_again

PROGRAM_SECONDS = 3.0
"""Seconds that a program is solved for at most: a small part of what compiling takes."""
_SECONDS_GAP = 1e-3  # of the seconds of the step
_BYTES_GAP = 1e-2  # of the most bytes that are in memory in any case


@dataclass(frozen=True, slots=True)
class Solution:
    """Attributes:
    bound: no choice takes fewer seconds above ``least_seconds``; inf where there is none at all.
    saved: those of the values that one may save or not which it saves; None where no solution was found.
    """

    bound: float
    saved: frozenset[int] | None


def fastest_within(step: FusedStep, budget: int) -> Solution:
    """The choice of the fewest seconds within ``budget`` bytes."""
    program = MixedIntegerProgram()
    columns = _columns(step, program)
    for saved, constant in _moments(step):
        program.at_most(_terms(step, columns, saved), float(budget - constant))
    outcome = program.solve(seconds=PROGRAM_SECONDS, gap=_SECONDS_GAP * least_seconds(step))
    return Solution(outcome.bound, _chosen(step, columns, outcome))


def lowest(step: FusedStep) -> frozenset[int] | None:
    """What the choice of the lowest peak saves; None where none was found."""
    program = MixedIntegerProgram()
    columns = _columns(step, program)
    peak = program.column(cost=1.0, upper=None)
    moments = list(_moments(step))
    unit = max(1, *(constant for _, constant in moments))
    for saved, constant in moments:
        terms = {column: size / unit for column, size in _terms(step, columns, saved).items()}
        program.at_most({**terms, peak: -1.0}, -constant / unit)
    return _chosen(step, columns, program.solve(seconds=PROGRAM_SECONDS, gap=_BYTES_GAP))


def _chosen(step: FusedStep, columns: dict[int, tuple[int, int]], outcome: Outcome) -> frozenset[int] | None:
    if (values := outcome.values) is None:
        return None
    return frozenset(v for v in step.choice if v in columns and values[columns[v][0]] > 0.5)


def _terms(step: FusedStep, columns: dict[int, tuple[int, int]], saved: set[int]) -> dict[int, float]:
    """The bytes of ``saved`` by column."""
    return {columns[v][0]: float(step.values.values[v].bytes) for v in saved if v in columns}


def _columns(step: FusedStep, program: MixedIntegerProgram) -> dict[int, tuple[int, int]]:
    """For each value of the forward that the backward might need: the columns of saving it and of computing it again."""
    values, forward = step.values.values, step.values.forward
    may_be_saved = set(step.candidates)
    needed = {r for v in step.needed for r in values[v].reads if forward[r]}
    needed |= {v for v in step.values.backward_results if forward[v]}
    reached = set(needed)
    for v in reversed(range(len(values))):
        if v in reached:
            reached.update(values[v].reads)
    columns = {}
    for v in sorted(reached):
        value = values[v]
        if value.kind == "given":
            continue
        saved = program.column(upper=1.0 if v in may_be_saved else 0.0, integer=True)
        again = program.column(cost=seconds_again(step, v), upper=1.0 if value.repeatable else 0.0)
        columns[v] = saved, again
        if v in needed:
            program.at_least({saved: 1.0, again: 1.0}, 1.0)
        for r in value.reads:
            if r in columns:
                program.at_least({columns[r][0]: 1.0, columns[r][1]: 1.0, again: -1.0}, 0.0)
    return columns


def _moments(step: FusedStep) -> Iterator[tuple[set[int], int]]:
    """Values that are in memory at one moment if they are saved, and the bytes that are there in any case.

    The first moment is between the two graphs. The others are while a kernel of the backward runs: kernels keep their order,
    and what a later one reads waits for it. A loop may run earlier, together with another, so it says nothing.
    """
    values = step.values.values
    results = {v for v in step.values.forward_results if values[v].kind != "given"}
    kept = sum(values[v].bytes for v in results)
    yield set(step.candidates) - results, kept + step.between
    kernels = [v for v in step.needed if values[v].kind == "kernel"]
    written = {v: [v] for v in kernels}  # with the parts of a kernel that has several results
    for v in step.needed:
        if values[v].kind == "part" and (kernel := values[v].reads[0]) in written:
            written[kernel].append(v)
    returned = {v: sum(values[w].bytes for w in written[v] if w in step.values.backward_results) for v in kernels}
    read_later: set[int] = set()
    gradients = kept + sum(returned.values())
    for v in reversed(kernels):
        # While a kernel runs, what it reads and writes is there, saved or not.
        own = sum(values[r].bytes for r in values[v].reads if values[r].kind != "given" and r not in results)
        own += sum(values[w].bytes for w in written[v]) + values[v].workspace
        gradients -= returned[v]
        yield read_later - set(values[v].reads) - results, gradients + own
        read_later |= set(values[v].reads)
