"""What every partition of a step takes at least: seconds that no choice of saved values avoids."""

from __future__ import annotations

from collections.abc import Iterable

from remat_planner.tracer.fusion.step import FusedStep


def least_seconds(step: FusedStep) -> float:
    """A lower bound on ``FusedStep.evaluate(...).seconds`` for every set of saved values.

    It counts each kernel and the arithmetic of each loop that the results need once; the tensors that a loop must write, since
    a kernel reads them or they are results; and of the tensors that are in memory for sure, one reading by a loop.
    """
    forward = _needed(step, step.values.forward_results)
    return sum(_once(step, phase) for phase in (forward, step.needed))


def seconds_again(step: FusedStep, v: int) -> float:
    """Seconds that the backward takes at least to compute ``v`` again."""
    value = step.values.values[v]
    if value.kind in ("given", "part"):
        return 0.0
    return value.seconds if value.kind == "kernel" else value.weight * value.elements / step.rates.arithmetic


def _needed(step: FusedStep, results: Iterable[int]) -> tuple[int, ...]:
    values = step.values.values
    wanted = set(results)
    for v in reversed(range(len(values))):
        if v in wanted:
            wanted.update(values[v].reads)
    return tuple(v for v in sorted(wanted) if values[v].kind != "given")


def _once(step: FusedStep, phase: tuple[int, ...]) -> float:
    values = step.values.values
    results = step.values.forward_results | step.values.backward_results
    inside = set(phase)
    written: set[int] = set()
    read: dict[int, int] = {}  # the most bytes that the loop reads which reads least of the value
    most: dict[int, int] = {}
    for v in reversed(phase):
        value = values[v]
        if value.kind == "kernel":
            written.update(r for r in value.reads if r in inside)
        if value.kind in ("kernel", "part"):
            continue
        # The loop that computes an elementwise value may be that of a reader with fewer iterations.
        bytes_of_loop = 8 * value.elements
        if value.kind == "pointwise":
            bytes_of_loop = min(bytes_of_loop, most.get(v, bytes_of_loop))
        for r in value.reads:
            most[r] = min(most.get(r, bytes_of_loop), bytes_of_loop)
            if values[r].kind in ("kernel", "given") or (
                values[r].kind == "part" and values[values[r].reads[0]].kind == "kernel"
            ):
                read[r] = most[r]
        if v in results:
            written.add(v)
    moved = sum(min(values[v].bytes, 8 * values[v].elements) for v in written if values[v].kind not in ("kernel", "part"))
    moved += sum(min(values[v].bytes, most) for v, most in read.items())
    return sum(seconds_again(step, v) for v in phase) + moved / step.rates.bandwidth
