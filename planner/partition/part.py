"""One graph of a compiled step, and the bytes that the graphs of one step take from one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remat_planner.planner.formatting import format_bytes_both
from remat_planner.tracer.fusion import AtPeak


@dataclass(frozen=True, slots=True)
class CompiledPart:
    """What a graph of ``torch.compile`` saves and recomputes. A model without graph breaks has one.

    Attributes:
        frame: which of the functions that ``torch.compile`` divides the model into, and which compilation of it.
        peak_bytes: predicted bytes at the peak of its forward and backward, above what is there all the time.
        saved_bytes: predicted bytes that stay allocated from its forward to its backward, its results included.
        seconds: predicted seconds of its forward and backward.
        fastest_seconds: those of the fastest partition, without a budget.
        fastest_bytes: the peak of that.
        bound_seconds: no partition within the whole budget takes fewer, as the model of the kernels has it; inf where none has
            a peak so low. The class: each value is computed at most once more, in the order of ``torch.compile``.
        recomputed: names of the operators that the backward runs again.
        at_peak: what its peak consists of.
    """

    frame: tuple[int, int]
    peak_bytes: int
    saved_bytes: int
    seconds: float
    fastest_seconds: float
    fastest_bytes: int
    bound_seconds: float
    recomputed: tuple[str, ...]
    at_peak: AtPeak

    @property
    def overhead(self) -> float:
        """Predicted seconds that the budget costs, as a share of the fastest step's."""
        return self.seconds / self.fastest_seconds - 1.0 if self.fastest_seconds else 0.0


def composition(part: CompiledPart) -> str:
    """What the peak of ``part`` consists of, in words."""
    peak = part.at_peak
    found = [
        (peak.gradients, "gradients"),
        (peak.saved, "what the forward leaves for the backward and its caller"),
        (peak.others, "what is computed then"),
    ]
    named = ", ".join(f"{format_bytes_both(size)} of {what}" for size, what in sorted(found, reverse=True) if size)
    return f"while {peak.kernel} is computed: {named}" if peak.kernel else f"between forward and backward: {named}"


def step_peak(parts: Sequence[CompiledPart]) -> int:
    """Bytes at the peak of a step that runs the forwards of ``parts`` in order and the backwards in reverse."""
    before = peak = 0
    for part in parts:
        peak = max(peak, before + part.peak_bytes)
        before += part.saved_bytes
    return peak


def bytes_after(parts: Sequence[CompiledPart], position: int) -> int:
    """Bytes that the parts after ``position`` take while its saved values wait for its backward."""
    return step_peak(parts[position + 1 :])
