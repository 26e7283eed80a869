"""What people touch: plan a training step within a number of bytes, put the schedule on the model, check that it holds."""

from planner.apply import apply_schedule, remove_schedule
from planner.compiled.backend import SavedSet, ScheduleBackend
from planner.errors import (
    BatchError,
    BudgetError,
    CompilerError,
    ExportError,
    InfeasibleBudgetError,
    OptimizerError,
    RegionError,
    SavedSetError,
    ShapesError,
    TrainingStateError,
)
from planner.exports.export import export
from planner.exports.form import Export
from planner.fit import Fit, fit
from planner.plan import plan, trace
from planner.verify import Verification, verify
from schedules import RegionSchedule, Schedule

__all__ = [
    "BatchError",
    "BudgetError",
    "CompilerError",
    "Export",
    "ExportError",
    "Fit",
    "InfeasibleBudgetError",
    "OptimizerError",
    "RegionError",
    "RegionSchedule",
    "SavedSet",
    "SavedSetError",
    "Schedule",
    "ScheduleBackend",
    "ShapesError",
    "TrainingStateError",
    "Verification",
    "apply_schedule",
    "export",
    "fit",
    "plan",
    "remove_schedule",
    "trace",
    "verify",
]
