"""Plan the activation memory of a PyTorch training step within a number of bytes.

    schedule = remat_planner.plan(model, (inputs,), budget="40GB")
    model = remat_planner.apply_schedule(model, schedule)

The public names are here. Each is imported when it is first used, so that ``import remat_planner`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remat_planner.planner.apply import apply_schedule as apply_schedule
    from remat_planner.planner.apply import remove_schedule as remove_schedule
    from remat_planner.planner.curve import curve as curve
    from remat_planner.planner.errors import AlreadyAppliedError as AlreadyAppliedError
    from remat_planner.planner.errors import AuditError as AuditError
    from remat_planner.planner.errors import BackwardError as BackwardError
    from remat_planner.planner.errors import BackwardTwiceError as BackwardTwiceError
    from remat_planner.planner.errors import BatchError as BatchError
    from remat_planner.planner.errors import BudgetError as BudgetError
    from remat_planner.planner.errors import ChangedInBetweenError as ChangedInBetweenError
    from remat_planner.planner.errors import CompilerError as CompilerError
    from remat_planner.planner.errors import DoubleBackwardError as DoubleBackwardError
    from remat_planner.planner.errors import EagerStepError as EagerStepError
    from remat_planner.planner.errors import ExportError as ExportError
    from remat_planner.planner.errors import InfeasibleBudgetError as InfeasibleBudgetError
    from remat_planner.planner.errors import MissingGradientError as MissingGradientError
    from remat_planner.planner.errors import NotAppliedError as NotAppliedError
    from remat_planner.planner.errors import OffloadError as OffloadError
    from remat_planner.planner.errors import OptimizerError as OptimizerError
    from remat_planner.planner.errors import OutputHookError as OutputHookError
    from remat_planner.planner.errors import RegionError as RegionError
    from remat_planner.planner.errors import ShapesError as ShapesError
    from remat_planner.planner.errors import ShardedError as ShardedError
    from remat_planner.planner.errors import SharedCastError as SharedCastError
    from remat_planner.planner.errors import TransformError as TransformError
    from remat_planner.planner.errors import UnexpectedGradientError as UnexpectedGradientError
    from remat_planner.planner.errors import VariantsError as VariantsError
    from remat_planner.planner.errors import VerificationError as VerificationError
    from remat_planner.planner.exports import Export as Export
    from remat_planner.planner.exports import export as export
    from remat_planner.planner.first_step import budgeted as budgeted
    from remat_planner.planner.measurement import Verification as Verification
    from remat_planner.planner.partition import CompiledPart as CompiledPart
    from remat_planner.planner.partition import CompiledStep as CompiledStep
    from remat_planner.planner.partition import budgeted_backend as budgeted_backend
    from remat_planner.planner.partition import compile as compile  # noqa: A004
    from remat_planner.planner.partition import compiled_step as compiled_step
    from remat_planner.planner.plan import plan as plan
    from remat_planner.planner.plan import trace as trace
    from remat_planner.planner.planning import Fit as Fit
    from remat_planner.planner.planning import Offload as Offload
    from remat_planner.planner.planning import fit as fit
    from remat_planner.planner.reports import report as report
    from remat_planner.planner.verify import verify as verify
    from remat_planner.schedules import Graph as Graph
    from remat_planner.schedules import GraphError as GraphError
    from remat_planner.schedules import InvalidScheduleError as InvalidScheduleError
    from remat_planner.schedules import RegionSchedule as RegionSchedule
    from remat_planner.schedules import Schedule as Schedule
    from remat_planner.schedules import ScheduleFileError as ScheduleFileError
    from remat_planner.schedules import StaleScheduleError as StaleScheduleError
    from remat_planner.schedules import TrainingState as TrainingState
    from remat_planner.schedules import TrainingStateError as TrainingStateError
    from remat_planner.schedules import simulate as simulate
    from remat_planner.solvers import OrderError as OrderError
    from remat_planner.solvers import Solver as Solver
    from remat_planner.solvers import SolverMissingError as SolverMissingError
    from remat_planner.solvers import UnknownSolverError as UnknownSolverError
    from remat_planner.solvers import available as available
    from remat_planner.tracer.costs import CostError as CostError
    from remat_planner.tracer.costs import DeviceNotAtHandError as DeviceNotAtHandError
    from remat_planner.tracer.costs import LinkError as LinkError
    from remat_planner.tracer.costs import MeasurementError as MeasurementError
    from remat_planner.tracer.costs import ProfileError as ProfileError
    from remat_planner.tracer.costs import ProfileWarning as ProfileWarning
    from remat_planner.tracer.costs import UnknownDeviceError as UnknownDeviceError
    from remat_planner.tracer.errors import CaptureError as CaptureError
    from remat_planner.tracer.errors import DataDependentError as DataDependentError
    from remat_planner.tracer.errors import InputsDoNotFitError as InputsDoNotFitError
    from remat_planner.tracer.errors import LossError as LossError
    from remat_planner.tracer.errors import LostHookError as LostHookError
    from remat_planner.tracer.errors import ModelNotSupportedError as ModelNotSupportedError
    from remat_planner.tracer.errors import NothingToTrainError as NothingToTrainError
    from remat_planner.tracer.errors import PythonStateError as PythonStateError
    from remat_planner.tracer.errors import RandomStateError as RandomStateError
    from remat_planner.tracer.errors import StateReassignedError as StateReassignedError
    from remat_planner.tracer.errors import SurroundingsError as SurroundingsError
    from remat_planner.tracer.errors import UnsupportedOperatorError as UnsupportedOperatorError
    from remat_planner.tracer.functions import FunctionVariesError as FunctionVariesError
    from remat_planner.tracer.functions import register_function as register_function
    from remat_planner.tracer.operators import OpCall as OpCall
    from remat_planner.tracer.operators import Roofline as Roofline
    from remat_planner.tracer.operators import UnknownOperatorError as UnknownOperatorError
    from remat_planner.tracer.operators import register_operator as register_operator
    from remat_planner.tracer.operators import unregister_operator as unregister_operator

_PUBLIC = {
    "planner.apply": (
        "apply_schedule",
        "remove_schedule",
    ),
    "planner.curve": ("curve",),
    "planner.errors": (
        "AlreadyAppliedError",
        "AuditError",
        "BackwardError",
        "BackwardTwiceError",
        "BatchError",
        "BudgetError",
        "ChangedInBetweenError",
        "CompilerError",
        "DoubleBackwardError",
        "EagerStepError",
        "ExportError",
        "InfeasibleBudgetError",
        "MissingGradientError",
        "NotAppliedError",
        "OffloadError",
        "OptimizerError",
        "VariantsError",
        "RegionError",
        "ShapesError",
        "SharedCastError",
        "ShardedError",
        "TransformError",
        "OutputHookError",
        "UnexpectedGradientError",
        "VerificationError",
    ),
    "planner.exports": (
        "Export",
        "export",
    ),
    "planner.first_step": ("budgeted",),
    "planner.measurement": ("Verification",),
    "planner.partition": (
        "CompiledPart",
        "CompiledStep",
        "budgeted_backend",
        "compile",
        "compiled_step",
    ),
    "planner.plan": (
        "plan",
        "trace",
    ),
    "planner.planning": (
        "Fit",
        "Offload",
        "fit",
    ),
    "planner.reports": ("report",),
    "planner.verify": ("verify",),
    "schedules": (
        "Graph",
        "GraphError",
        "InvalidScheduleError",
        "RegionSchedule",
        "Schedule",
        "ScheduleFileError",
        "StaleScheduleError",
        "TrainingState",
        "TrainingStateError",
        "simulate",
    ),
    "solvers": (
        "Solver",
        "OrderError",
        "SolverMissingError",
        "UnknownSolverError",
        "available",
    ),
    "tracer.errors": (
        "CaptureError",
        "DataDependentError",
        "InputsDoNotFitError",
        "LossError",
        "LostHookError",
        "ModelNotSupportedError",
        "NothingToTrainError",
        "PythonStateError",
        "RandomStateError",
        "StateReassignedError",
        "SurroundingsError",
        "UnsupportedOperatorError",
    ),
    "tracer.costs": (
        "CostError",
        "DeviceNotAtHandError",
        "LinkError",
        "MeasurementError",
        "ProfileError",
        "ProfileWarning",
        "UnknownDeviceError",
    ),
    "tracer.functions": (
        "FunctionVariesError",
        "register_function",
    ),
    "tracer.operators": (
        "OpCall",
        "Roofline",
        "UnknownOperatorError",
        "register_operator",
        "unregister_operator",
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("remat-planner")
        except PackageNotFoundError:  # a checkout that is not installed
            return "unknown"
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
