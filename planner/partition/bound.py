"""What no partition of a joint graph is below: seconds within a number of bytes, and bytes.

The class is that of ``FusedStep.evaluate``: each value of the forward is saved, or computed at most once more; both graphs run
in the order of ``torch.compile``; the kernels and their costs are those of the model. A mixed-integer program says which values
to save. Its costs are what recomputed kernels take and the arithmetic of recomputed loops; its bytes those that are in memory
for sure between the two graphs and while each kernel of the backward runs. It leaves out all else, so its optimum is a bound.
"""

from __future__ import annotations

from collections.abc import Iterator

from remat_planner.solvers.milp import MixedIntegerProgram
from remat_planner.tracer.fusion import FusedStep, least_seconds, seconds_again

BOUND_SECONDS = 3.0
"""Seconds that the program is solved for at most: a small part of what compiling takes."""
_GAP = 1e-3  # of the seconds of the step
_ROUNDING = 1e-9


def seconds_at_least(step: FusedStep, budget: int) -> float:
    """No partition whose peak is at most ``budget`` takes fewer seconds in the model; inf where none has such a peak."""
    least = least_seconds(step)
    program = MixedIntegerProgram()
    columns = _columns(step, program)
    for saved, constant in _moments(step):
        room = float(budget - constant)
        program.at_most({columns[v][0]: float(step.values.values[v].bytes) for v in saved if v in columns}, room)
    outcome = program.solve(seconds=BOUND_SECONDS, gap=_GAP * least)
    return (least + max(outcome.bound, 0.0)) * (1.0 - _ROUNDING)


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
    read_later: set[int] = set()
    gradients = kept + sum(values[v].bytes for v in kernels if v in step.values.backward_results)
    for v in reversed(kernels):
        # While a kernel runs, what it reads and writes is there, saved or not.
        own = sum(values[r].bytes for r in values[v].reads if values[r].kind != "given" and r not in results)
        gradients -= values[v].bytes if v in step.values.backward_results else 0
        yield read_later - set(values[v].reads) - results, gradients + own + values[v].bytes + values[v].workspace
        read_later |= set(values[v].reads)
