"""The planner: plan a training step within a number of bytes, apply the schedule to the model, verify it."""

from remat_planner.planner.apply import apply_schedule, remove_schedule
from remat_planner.planner.errors import (
    AuditError,
    BatchError,
    BudgetError,
    CompilerError,
    EagerStepError,
    ExportError,
    InfeasibleBudgetError,
    OffloadError,
    OptimizerError,
    RegionError,
    ShapesError,
    VerificationError,
)
from remat_planner.planner.exports import Export, export
from remat_planner.planner.measurement import Verification
from remat_planner.planner.plan import plan, trace
from remat_planner.planner.planning import Fit, Offload, fit
from remat_planner.planner.verify import verify
from remat_planner.schedules import RegionSchedule, Schedule, TrainingState, TrainingStateError

__all__ = [
    "AuditError",
    "BatchError",
    "BudgetError",
    "CompilerError",
    "EagerStepError",
    "Export",
    "ExportError",
    "Fit",
    "InfeasibleBudgetError",
    "Offload",
    "OffloadError",
    "OptimizerError",
    "RegionError",
    "RegionSchedule",
    "Schedule",
    "ShapesError",
    "TrainingState",
    "TrainingStateError",
    "Verification",
    "VerificationError",
    "apply_schedule",
    "export",
    "fit",
    "plan",
    "remove_schedule",
    "trace",
    "verify",
]
