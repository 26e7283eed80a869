"""What a report says about a schedule, as plain data in bytes, seconds and fractions.

``whole_summary`` and ``region_summary`` build one for each kind of schedule. The terminal report renders a summary and the JSON
document is derived from it, so a fact that a report gains is added there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from remat_planner.planner.measurement import StepTimes, Verification

NOT_IN_DOCUMENT: Mapping[str, Any] = {"document": False}
"""Metadata of a field that only the terminal shows."""
INLINE: Mapping[str, Any] = {"inline": True}
"""Metadata of a field whose own fields stand in the document in its place."""


class Summary(Protocol):
    """What both kinds of summary say; each is a dataclass whose fields, in their order, are the keys of the document.

    Attributes:
        schedule_class: the class of ``remat_planner`` that loads the schedule's file.
        model: class of the model.
        device: where the costs hold, "cpu" or the name of a GPU.
        costs: where the seconds come from: "measure", the name of a data sheet, or a profile file.
        optimizer: the optimizer whose state counts, or None.
        budget_bytes: what the step may take at its peak.
        peak_bytes: what it takes.
        baseline_peak_bytes: what it takes without recomputation.
        loss_is_the_callers: whether applying the schedule needs the caller's loss.
        copies_to_disk: whether applying the schedule needs a folder.
        verification: what a run of the real step showed, or None.
        schedule: the file that the schedule is in, or None.
    """

    schedule_class: ClassVar[str]

    @property
    def model(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def costs(self) -> str: ...
    @property
    def optimizer(self) -> str | None: ...
    @property
    def budget_bytes(self) -> int: ...
    @property
    def peak_bytes(self) -> int: ...
    @property
    def baseline_peak_bytes(self) -> int: ...
    @property
    def loss_is_the_callers(self) -> bool: ...
    @property
    def copies_to_disk(self) -> bool: ...
    @property
    def verification(self) -> VerificationSummary | None: ...
    @property
    def schedule(self) -> str | None: ...


@dataclass(frozen=True)
class VerificationSummary:
    """What a run of the real step showed; the fields are those of ``measurement.Verification``."""

    identical: bool
    within_budget: bool
    measured_peak_bytes: int
    predicted_peak_bytes: int
    differences: tuple[str, ...] = ()
    nondeterministic: tuple[str, ...] = ()
    part: str = ""
    inexact: tuple[str, ...] = ()
    largest_difference: float = 0.0
    as_promised: bool = True
    pool_bytes: Mapping[str, int] = field(default_factory=dict)
    times: StepTimes | None = None

    @property
    def passed(self) -> bool:
        """Whether the planned step leaves what the plan promises and stays within the budget."""
        return self.as_promised and self.within_budget


def summarize_verification(verification: Verification) -> VerificationSummary:
    """The part of ``verification`` that reports show."""
    return VerificationSummary(
        identical=verification.identical,
        within_budget=verification.within_budget,
        measured_peak_bytes=verification.measured_peak_bytes,
        predicted_peak_bytes=verification.predicted_peak_bytes,
        differences=verification.differences,
        nondeterministic=verification.nondeterministic,
        part=verification.part,
        inexact=verification.inexact,
        largest_difference=verification.largest_difference,
        as_promised=verification.as_promised,
        pool_bytes=verification.pool_bytes,
        times=verification.times,
    )


def usage_lines(summary: Summary, *, disk_folder: Path | None = None) -> tuple[str, ...]:
    """The lines of Python that train with the schedule in the summary's file; its copies to a disk go to ``disk_folder``.

    Raises:
        ValueError: the schedule is in no file.
    """
    if summary.schedule is None:
        raise ValueError("the schedule is in no file")
    options = ", loss=loss" if summary.loss_is_the_callers else ""
    if summary.copies_to_disk:
        options += f", disk_folder={str(disk_folder or 'FOLDER')!r}"
    return (
        "import remat_planner",
        f"schedule = remat_planner.{summary.schedule_class}.load({summary.schedule!r})",
        f"model = remat_planner.apply_schedule(model, schedule{options})",
    )
