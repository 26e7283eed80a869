"""TODO: ."""

from __future__ import annotations

import tempfile
from pathlib import Path

from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.tracer.costs import MEASURE, device_named


def sheet_of(device: str, costs: str) -> str:
    """The costs to ask for where ``--device`` names a GPU.

    Raises:
        UsageError: ``--costs`` names other ones.
        UnknownDeviceError: no such GPU is known.
    """
    if costs != MEASURE:
        raise UsageError(f"--device {device} takes the costs from its data sheet and --costs {costs} from elsewhere: give one")
    return device_named(device).name


def check_writable(path: Path) -> None:
    """Find out before the work whether ``path`` can be written after it.

    Raises:
        UsageError: it cannot.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file for the schedule with -o")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error
