"""The result of ``verify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from remat_planner.planner.measurement.times_in_turn import StepTimes


@dataclass(frozen=True)
class Verification:
    """How a planned step compares with eager and with its plan.

    Attributes:
        identical: what the planned steps leave equals what eager's leave, bit for bit: loss, outputs, gradients (and which
            there are), parameters, buffers, inputs, Python state and random states.
        measured_peak_bytes: the plan's constant bytes, plus the measured peak of one step above them.
        predicted_peak_bytes: the plan's peak of forward and backward; the optimizer's step is not run.
        budget_bytes: the plan's budget.
        differences: names of what differs from eager, as in "step 1: gradient of lm_head.weight".
        nondeterministic: names of what eager itself does not repeat; left out of the comparison.
        inexact: how the plan computes otherwise than eager, which rounds otherwise; empty where it promises eager's bits.
        compiler: the compiler that the model was applied with; None without one.
        largest_difference: the largest difference from eager of any element of any tensor, as a share of the tensor's largest
            magnitude; 0.0 where all bits are equal, infinite where shapes, integers, states or values of Python differ.
        close: no difference exceeds the square root of the epsilon of the tensor's dtype.
        pool_bytes: bytes that the copies of one step were given in each pool, by name.
        times: of planned steps and of eager's around them; None where the costs were not measured on this device.
        part: the part of the batch that was run; "" for all of it.
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
    part: str = ""
    inexact: tuple[str, ...] = ()
    pool_bytes: Mapping[str, int] = field(default_factory=dict)
    times: StepTimes | None = None

    @property
    def as_promised(self) -> bool:
        """Whether bits equal eager's, or are ``close`` to them where the plan promises no more."""
        return self.identical or (bool(self.inexact) and self.close)

    @property
    def within_budget(self) -> bool:
        """Whether the measured step stayed within the budget."""
        return self.measured_peak_bytes <= self.budget_bytes
