"""TODO: ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verification:
    """What running the real steps showed.

    Attributes:
        identical: loss, outputs, every gradient, every buffer and the random state are eager's, bit for bit.
        measured_peak_bytes: constants as planned, plus the highest bytes above them that one step really took.
        predicted_peak_bytes: what the schedule says of forward and backward; the optimizer's step is not run.
        budget_bytes: what the schedule was planned for.
        differences: what differs from eager, one name each, as in "step 1: gradient of lm_head.weight".
        nondeterministic: what eager itself does not compute the same way every time; left out of the comparison.
        compiler: the compiler that the model was applied with; None without one.
        largest_difference: the largest difference from eager of any element of any tensor, as a share of the tensor's largest
            magnitude; 0.0 where bits are equal, infinite where what cannot be a little off (a form, a random state) differs.
        close: whether no difference is more than the square root of the epsilon of the tensor's dtype.
    """

    identical: bool
    measured_peak_bytes: int
    predicted_peak_bytes: int
    budget_bytes: int
    differences: tuple[str, ...] = ()
    nondeterministic: tuple[str, ...] = ()
    compiler: str | None = None
    largest_difference: float = 0.0
    close: bool = True

    @property
    def within_budget(self) -> bool:
        """Whether the measured step stayed within the budget."""
        return self.measured_peak_bytes <= self.budget_bytes
