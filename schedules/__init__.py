"""The language of the project: training steps, schedules, the simulator that judges them, and their files.

The other packages import this one; it imports none of them, and no torch.
"""

from remat_planner.schedules.atomic_write import write_text_atomically
from remat_planner.schedules.differences import differences, origin_differences
from remat_planner.schedules.errors import (
    GraphError,
    InvalidScheduleError,
    ScheduleFileError,
    StaleScheduleError,
    TrainingStateError,
)
from remat_planner.schedules.files import load_schedule
from remat_planner.schedules.graph import Graph, Op, Phase, Storage, Value
from remat_planner.schedules.origin import BudgetOn, Origin, Status
from remat_planner.schedules.preference import preference
from remat_planner.schedules.region_schedule import RegionSchedule
from remat_planner.schedules.schedule import Schedule
from remat_planner.schedules.simulate import Lifetimes, Simulation, lifetimes, live_bytes, simulate
from remat_planner.schedules.training_state import TrainingState

__all__ = [
    "BudgetOn",
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
    "TrainingState",
    "TrainingStateError",
    "Value",
    "differences",
    "lifetimes",
    "live_bytes",
    "load_schedule",
    "origin_differences",
    "preference",
    "simulate",
    "write_text_atomically",
]
