"""Schedule files: JSON with a format version, the graph, the steps by stable op names and where they came from."""

from __future__ import annotations

import os

from remat_planner.schedules._documents import REGIONS_FORMAT, ScheduleDocument, parsed, validated
from remat_planner.schedules.region_schedule import RegionSchedule, region_schedule_of
from remat_planner.schedules.schedule import Schedule, schedule_of


def load_schedule(path: str | os.PathLike[str]) -> Schedule | RegionSchedule:
    """Read a schedule file of either kind.

    Raises:
        OSError: the file cannot be read.
        ScheduleFileError: it is damaged, or no schedule file.
    """
    content = parsed(path)
    return (
        region_schedule_of(path, content)
        if content["format"] == REGIONS_FORMAT
        else schedule_of(path, validated(path, content, ScheduleDocument))
    )
