"""The language of the project: training steps, schedules, the simulator that judges them, and their files.

No torch and no solver in here: everything else imports this package, and it imports nothing of theirs.
"""

from schedules.compare import differences, origin_differences
from schedules.errors import GraphError, InvalidScheduleError, ScheduleFileError, StaleScheduleError
from schedules.graph import Graph, Op, Phase, Storage, Value
from schedules.regions import RegionSchedule
from schedules.schedule import Origin, Schedule, Status
from schedules.simulate import Lifetimes, Simulation, lifetimes, simulate

__all__ = [
    "Graph",
    "GraphError",
    "InvalidScheduleError",
    "Lifetimes",
    "Op",
    "Origin",
    "Phase",
    "RegionSchedule",
    "Schedule",
    "ScheduleFileError",
    "Simulation",
    "StaleScheduleError",
    "Status",
    "Storage",
    "Value",
    "differences",
    "lifetimes",
    "origin_differences",
    "simulate",
]
