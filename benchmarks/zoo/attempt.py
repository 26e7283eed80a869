"""Tries one architecture: eager, a plan at a share of its peak, the plan verified; by regions where it is refused whole."""

from __future__ import annotations

import logging
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

import remat_planner
from benchmarks.zoo.architectures import (
    Architecture,
    Candidate,
    NotBuiltError,
    NotTrainableError,
    in_words,
    loss_of,
    trained_by_eager,
)
from remat_planner.planner.planning import Settings, schedule_step, trace_step
from remat_planner.schedules import RegionSchedule, Schedule

Verdict = Literal[
    "whole",
    "regions",
    "infeasible",
    "refused",
    "wrong",
    "over budget",
    "foreign error",
    "too slow",
    "crashed",
    "not trained by eager",
    "not trainable",
]
FAULTS: tuple[Verdict, ...] = ("wrong", "over budget", "foreign error", "crashed")

_BUDGET = "70%"
_SOLVING = 2.0  # seconds
_MEMORY = 16 * 2**30  # bytes of addresses; more than a tiny model needs is a fault of its configuration


@dataclass(frozen=True)
class Row:
    """What became of one architecture.

    Attributes:
        library: the library that it is from.
        name: the architecture.
        model: class of the model.
        verdict: "infeasible" was planned, verified and right at the least budget that the error named; "not trainable" lacks a
            library or a gradient, "not trained by eager" has no form that the zoo knows.
        by_regions: whether the plan is one by regions.
        refusal: why the whole was refused, also where regions were planned; "" where it was not.
        detail: what is wrong, or the error.
        least: the least budget as a share of the peak without recomputation, where the asked one is infeasible.
        seconds: of one core, all of it.
    """

    library: str
    name: str
    model: str = ""
    verdict: Verdict = "whole"
    by_regions: bool = False
    refusal: str = ""
    detail: str = ""
    least: float | None = None
    seconds: float = 0.0


def attempt(library: str, architecture: Architecture) -> Row:
    """Try one architecture in this process, which it may spoil."""
    _quiet()
    started = time.process_time()
    row = Row(library, architecture.name)
    try:
        row = _planned(row, trained_by_eager(architecture))
    except NotTrainableError as error:
        row = replace(row, verdict="not trainable", detail=str(error))
    except NotBuiltError as error:
        row = replace(row, verdict="not trained by eager", detail=str(error))
    except MemoryError as error:
        row = replace(row, verdict="not trained by eager", detail=f"it takes too much memory: {in_words(error)}")
    return replace(row, seconds=round(time.process_time() - started, 1))


def _quiet() -> None:
    """One thread, no warnings, no logs, a limit on memory."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _planned(row: Row, candidate: Candidate) -> Row:
    row = replace(row, model=type(candidate.model).__name__)
    settings = Settings(loss=loss_of, time_limit=_SOLVING)
    args, kwargs = candidate.args, candidate.kwargs

    def by_regions(budget: int | str) -> Schedule | RegionSchedule:
        return remat_planner.plan(
            candidate.model, args, kwargs, budget=budget, time_limit=_SOLVING, loss=loss_of, regions="auto", verify=False
        )

    try:
        try:
            step = trace_step(candidate.model, args, kwargs, settings=settings)
        except Exception as error:
            if not _is_ours(error):
                raise
            row = replace(row, refusal=in_words(error), by_regions=True)
            return _verified(row, candidate, *_within(by_regions))
        return _verified(row, candidate, *_within(partial(schedule_step, step)))
    except Exception as error:
        return replace(row, verdict="refused" if _is_ours(error) else "foreign error", detail=in_words(error))


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] == "remat_planner"


def _verified(row: Row, candidate: Candidate, schedule: Schedule | RegionSchedule, least: float | None) -> Row:
    """The row of a plan that was found."""
    found = remat_planner.verify(candidate.model, schedule, candidate.args, candidate.kwargs, loss=loss_of)
    row = replace(row, least=least)
    if not found.identical:
        return replace(row, verdict="wrong", detail="; ".join(found.differences[:4]))
    if not found.within_budget:
        share = found.measured_peak_bytes / found.budget_bytes - 1
        detail = f"{found.measured_peak_bytes:,} of {found.budget_bytes:,} bytes (+{share:.2%})"
        return replace(row, verdict="over budget", detail=detail)
    if least is not None:
        return replace(row, verdict="infeasible")
    return replace(row, verdict="regions" if row.by_regions else "whole")


def _within(plan: Callable[[int | str], Schedule | RegionSchedule]) -> tuple[Schedule | RegionSchedule, float | None]:
    """The plan within the asked budget; else at the least one, and its share of the peak without recomputation.

    By regions the least peak is a measured one: where sizes depend on draws, the next plan may measure another.
    """
    try:
        return plan(_BUDGET), None
    except remat_planner.InfeasibleBudgetError as error:
        try:
            schedule = plan(error.minimum)
        except remat_planner.InfeasibleBudgetError:
            schedule = plan("min")
        return schedule, round(schedule.budget / schedule.baseline_peak_bytes, 3)
