"""The language of the project: training steps, schedules, the simulator that judges them, and their files.

The other packages import this one; it imports none of them, and no torch.
"""

from remat_planner.schedules.atomic_write import write_atomically, write_text_atomically
from remat_planner.schedules.copies import PoolCopies
from remat_planner.schedules.differences import differences, origin_differences
from remat_planner.schedules.elements import Op, Phase, Storage, Value
from remat_planner.schedules.errors import (
    GraphError,
    InvalidScheduleError,
    ScheduleFileError,
    StaleScheduleError,
    TrainingStateError,
)
from remat_planner.schedules.files import load_schedule
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.in_flight import retained_bytes
from remat_planner.schedules.instances import lifetimes
from remat_planner.schedules.origin import BudgetOn, Origin, Status, Variants
from remat_planner.schedules.pieces import Lifetimes, live_bytes
from remat_planner.schedules.preference import preference
from remat_planner.schedules.queues import Timing
from remat_planner.schedules.ranges import SizeRange, in_words, is_at_largest
from remat_planner.schedules.region_schedule import RegionSchedule
from remat_planner.schedules.schedule import Schedule, planned_ranges
from remat_planner.schedules.simulate import Simulation, Traffic, simulate
from remat_planner.schedules.training_state import TrainingState
from remat_planner.schedules.transfers import (
    Channel,
    CopySteps,
    Pool,
    PoolName,
    RateSource,
    Transfer,
    TransferKind,
)

__all__ = [
    "BudgetOn",
    "Channel",
    "CopySteps",
    "Graph",
    "GraphError",
    "InvalidScheduleError",
    "Lifetimes",
    "Op",
    "Origin",
    "Phase",
    "Pool",
    "PoolCopies",
    "PoolName",
    "RateSource",
    "RegionSchedule",
    "Schedule",
    "ScheduleFileError",
    "Simulation",
    "SizeRange",
    "StaleScheduleError",
    "Status",
    "Storage",
    "Timing",
    "Traffic",
    "TrainingState",
    "TrainingStateError",
    "Transfer",
    "TransferKind",
    "Value",
    "Variants",
    "differences",
    "in_words",
    "is_at_largest",
    "lifetimes",
    "live_bytes",
    "load_schedule",
    "origin_differences",
    "planned_ranges",
    "preference",
    "retained_bytes",
    "simulate",
    "write_atomically",
    "write_text_atomically",
]
