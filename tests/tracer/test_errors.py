"""The errors of a capture."""

from __future__ import annotations

from remat_planner.tracer import CaptureError
from remat_planner.tracer.errors import (
    DataDependentError,
    InputsDoNotFitError,
    LossError,
    LostHookError,
    ModelNotSupportedError,
    NothingToTrainError,
    PythonStateError,
    StateReassignedError,
    UnsupportedOperatorError,
)


def test_every_error_is_a_capture_error():
    for error in (
        DataDependentError,
        InputsDoNotFitError,
        LossError,
        LostHookError,
        ModelNotSupportedError,
        NothingToTrainError,
        PythonStateError,
        StateReassignedError,
        UnsupportedOperatorError,
    ):
        assert issubclass(error, CaptureError)
