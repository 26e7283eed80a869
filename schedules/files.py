"""Loading a schedule file of either kind.

A file is JSON with a format version. It holds the graph, the steps by op name, and the origin. ``Schedule`` and
``RegionSchedule`` read and write their own kind.
"""

from __future__ import annotations

import os

from remat_planner.schedules.file_format import REGIONS_FORMAT, ScheduleDocument, parsed, validated
from remat_planner.schedules.region_schedule import RegionSchedule, regions_from_content
from remat_planner.schedules.schedule import Schedule, schedule_from_document


def load_schedule(path: str | os.PathLike[str]) -> Schedule | RegionSchedule:
    """Read a schedule file of either kind.

    Raises:
        OSError: the file cannot be read.
        ScheduleFileError: the file is damaged or not a schedule file.
    """
    content = parsed(path)
    return (
        regions_from_content(path, content)
        if content["format"] == REGIONS_FORMAT
        else schedule_from_document(path, validated(path, content, ScheduleDocument))
    )
