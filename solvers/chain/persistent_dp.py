"""Optimal persistent schedules of a chain of unequal stages: the dynamic program of rotor, with options per stage.

Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal checkpointing for heterogeneous chains: how to train deep neural
networks with limited memory" (2019). C(a, b, m) is the least time to run stages a to b forward, as often as necessary, and
backward, with m slots of memory beside the resident input of stage a:

    C(a, b, m) = min( min over j in (a, b] of  F[a] + ... + F[j-1] + C(j, b, m - x[j]) + C(a, j-1, m),
                      min over options o of    S[a, o] + C(a+1, b, m - saved[a, o]) )

The first line runs to j without saving, retains the input of j, handles j to b, and comes back to a. The second retains the
inputs of the backward of stage a (or part of them, at the price of recomputing the rest). Each needs its own peak to fit m.

Numbers in, numbers out: no graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.compiling import entrance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Stages(NamedTuple):
    """The chain: n stages, k options each. Times in seconds, memory in slots.

    The first sweep and later visits of a stage may differ, hence the leading axis of 2 (0: later visits, 1: first sweep, that
    is, b is the last stage).

    Attributes:
        inputs: int64[n], the input of each stage; that of stage 0 is never counted.
        forward: float64[2, n], to run a stage for the input of the next one.
        forward_needs: int64[2, n], at the peak of that run, without the input of the stage itself.
        save: float64[2, n, k], to run a stage so that its backward can follow, with the recomputation that the option adds to
            the backward; inf if the stage has no such option.
        save_needs: int64[2, n, k], at the peak of that run.
        saved: int64[n, k], retained for the backward, the input of the next stage included.
        backward_needs: int64[n, k], at the peak of the backward, everything but the input of the stage.
        beside: int64[n], resident besides once the backward of the next stage is done (gradients, for instance).
    """

    inputs: Ints
    forward: Floats
    forward_needs: Ints
    save: Floats
    save_needs: Ints
    saved: Ints
    backward_needs: Ints
    beside: Ints


# One choice for stages a to b: save a with option o ("save", a, o), or run forward to j and retain its input ("forward", a, j).
Step = tuple[str, int, int]


@numba.njit(fastmath={"nnan", "nsz"}, inline="never")
def _improve(row: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32], seconds: np.float32) -> None:
    for i in range(len(row)):
        value = seconds + right[i] + left[i]
        row[i] = value if value < row[i] else row[i]


@entrance
def table(stages: Stages, slots: int) -> NDArray[np.float32]:
    """C: float32[n, n, slots + 1], seconds without those of the backward itself; inf where nothing fits."""
    n = len(stages.inputs)
    best = np.full((n, n, slots + 1), np.inf, dtype=np.float32)
    for length in range(n):
        for a in range(n - length):
            b = a + length
            first = 1 if b == n - 1 else 0
            row = best[a, b]
            for option in range(stages.saved.shape[1]):
                seconds = np.float32(stages.save[first, a, option])
                least = max(stages.save_needs[first, a, option] + stages.beside[b], stages.backward_needs[a, option])
                if length == 0:
                    for m in range(least, slots + 1):
                        row[m] = min(row[m], seconds)
                else:
                    held = stages.saved[a, option]
                    rest = best[a + 1, b]
                    for m in range(max(least, held), slots + 1):
                        row[m] = min(row[m], seconds + rest[m - held])
            seconds = np.float32(0.0)
            needs = 0
            for j in range(a + 1, b + 1):
                seconds += np.float32(stages.forward[first, j - 1])
                moving = 0 if j - 1 == a else stages.inputs[j - 1]
                needs = max(needs, stages.forward_needs[first, j - 1] + moving + stages.beside[b])
                held = stages.inputs[j]
                right, left = best[j, b], best[a, j - 1]
                # Slices of equal length, counted from 0, so that the compiler can use vector instructions.
                begin = max(needs, held)
                if begin <= slots:
                    _improve(row[begin:], left[begin:], right[begin - held : slots + 1 - held], seconds)
    return best


def steps(stages: Stages, best: NDArray[np.float32], a: int, b: int, slots: int) -> Iterator[tuple[Step, int, int]]:
    """The choices behind ``best[a, b, slots]`` in the order in which they are carried out, each with its a and b.

    A ("save", a, o) step is followed by those of stages a + 1 to b, then by the backward of a, which is not among the steps.

    Raises:
        ValueError: no schedule fits that many slots.
    """
    if not np.isfinite(best[a, b, slots]):
        raise ValueError(f"no persistent schedule of stages {a} to {b} fits {slots} slots")
    pending = [(a, b, slots)]
    while pending:
        a, b, m = pending.pop()
        step = _choice(stages, best, a, b, m)
        yield step, a, b
        kind, _, which = step
        if kind == "forward":
            pending.append((a, which - 1, m))
            pending.append((which, b, m - int(stages.inputs[which])))
        elif a < b:
            pending.append((a + 1, b, m - int(stages.saved[a, which])))


def _choice(stages: Stages, best: NDArray[np.float32], a: int, b: int, m: int) -> Step:
    """The step that gives ``best[a, b, m]``, by the arithmetic of ``table`` for this entry alone."""
    first = int(b == len(stages.inputs) - 1)
    chosen: Step | None = None
    least = np.float32(np.inf)
    for option in range(stages.saved.shape[1]):
        held = int(stages.saved[a, option])
        needs = max(int(stages.save_needs[first, a, option] + stages.beside[b]), int(stages.backward_needs[a, option]))
        if m >= (needs if a == b else max(needs, held)):
            value = np.float32(stages.save[first, a, option]) + (best[a + 1, b, m - held] if a < b else np.float32(0.0))
            if value < least:
                least, chosen = value, ("save", a, option)
    seconds, needs = np.float32(0.0), 0
    for j in range(a + 1, b + 1):
        seconds += np.float32(stages.forward[first, j - 1])
        moving = 0 if j - 1 == a else int(stages.inputs[j - 1])
        needs = max(needs, int(stages.forward_needs[first, j - 1] + stages.beside[b]) + moving)
        held = int(stages.inputs[j])
        if m >= max(needs, held):
            value = seconds + best[j, b, m - held] + best[a, j - 1, m]
            if value < least:
                least, chosen = value, ("forward", a, j)
    if chosen is None:
        raise ValueError(f"no persistent schedule of stages {a} to {b} fits {m} slots")
    return chosen
