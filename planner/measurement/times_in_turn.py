"""Times of planned steps, each between two of eager's: other work on the machine bends neighbours alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

_MOST_ROUNDS = 7
_ENOUGH_SECONDS = 3.0
"""After so long there is no further round."""


@dataclass(frozen=True)
class StepTimes:
    """Measured and predicted times of a planned step and of eager's.

    Attributes:
        planned, eager: seconds of a step, the medians; on a CPU without those in which other processes had it.
        overheads: extra time of each planned step, as a share of the mean of the two of eager's around it.
        predicted_planned, predicted_eager: the sums of the ops' seconds.
    """

    planned: float
    eager: float
    overheads: tuple[float, ...]
    predicted_planned: float
    predicted_eager: float

    @property
    def overhead(self) -> float:
        """Measured extra time, as a share of eager's step."""
        return statistics.median(self.overheads)

    @property
    def predicted_overhead(self) -> float:
        """Predicted extra time, as a share of eager's step."""
        return self.predicted_planned / self.predicted_eager - 1 if self.predicted_eager else 0.0


def times_in_turn(planned: Callable[[], float], eager: Callable[[], float], predicted: tuple[float, float]) -> StepTimes:
    """Run eager's step before and after each planned one. Both return their seconds; ``predicted`` are those of both."""
    of_eager, of_planned, overheads = [eager()], list[float](), list[float]()
    while (len(overheads) < _MOST_ROUNDS and sum(of_eager) + sum(of_planned) < _ENOUGH_SECONDS) or not overheads:
        of_planned.append(planned())
        of_eager.append(eager())
        overheads.append(2 * of_planned[-1] / (of_eager[-2] + of_eager[-1]) - 1)
    return StepTimes(statistics.median(of_planned), statistics.median(of_eager), tuple(overheads), *predicted)
