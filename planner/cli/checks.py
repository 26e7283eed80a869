"""Checks of options before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.schedules import RegionSchedule, Schedule, load_schedule
from remat_planner.solvers.registry import get as get_solver
from remat_planner.tracer.costs import MEASURE, device_named


def check_solver(solver: str, time_limit: float) -> None:
    """Check the name of a solver and the seconds that it gets.

    Raises:
        UnknownSolverError, SolverMissingError: no such solver can run here.
        UsageError: the time limit is negative or NaN.
    """
    get_solver(solver)
    if not time_limit >= 0:  # NaN too
        raise UsageError(f"the time limit is {time_limit:g} seconds: give zero or more")


def costs_for(device: str | None, costs: str) -> str:
    """The source of costs that ``--costs`` and ``--device`` mean together.

    Raises:
        UsageError: they contradict each other.
        UnknownDeviceError: ``--device`` is not a known GPU.
    """
    if device is None:
        return costs
    if costs != MEASURE:
        raise UsageError(f"--device {device} takes the costs from its data sheet and --costs {costs} from elsewhere: give one")
    return device_named(device).name


def check_writable(path: Path) -> None:
    """Check before the work that ``path`` can be written after it.

    Raises:
        UsageError: it cannot.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file with -o")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error


def loaded_schedule(path: Path) -> Schedule | RegionSchedule:
    """Read a schedule file.

    Raises:
        UsageError: the file cannot be read.
        schedules.ScheduleFileError: it holds no schedule.
    """
    try:
        return load_schedule(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
