"""Running the user's code during a recording: the forward, the loss and the backward.

An exception that the code raises becomes a ``CaptureError`` that names the user's line. ``provenance`` stops at the frames of
``run_user_code`` and ``run_backward``: frames above them are not the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from remat_planner.tracer.errors import CaptureError, DataDependentError
from remat_planner.tracer.record.provenance import raising_line
from remat_planner.tracer.refusals import (
    address_error,
    backward_raised_error,
    compiled_function_error,
    data_dependent_error,
    model_raised_error,
    nested_tensor_error,
    refuse_no_gradients,
    refuse_sparse_gradients,
    without_fake_error,
)
from remat_planner.tracer.torch_functions import READS_OF_ADDRESSES
from remat_planner.tracer.torch_private import (
    READS_OF_FAKES,
    DataDependentOutputException,
    DynamicOutputShapeException,
    lacks_fake,
)
from remat_planner.tracer.torch_tracing import CALLS_COMPILED_CODE


def run_user_code(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the user's forward or loss.

    Raises:
        DataDependentError: the shape of an operator's result depends on values, or the code reads memory that a fake lacks.
        InputsDoNotFitError: the code itself raised.
        ModelNotSupportedError: the code calls a compiled function.
        UnsupportedOperatorError: it launches a kernel by address, or calls an operator that fakes cannot run.
    """
    try:
        return function(*args, **kwargs)
    except CaptureError:
        raise
    except Exception as error:
        raise _explained(error) from error


def run_backward(
    outputs: list[torch.Tensor], leaves: list[torch.Tensor], arriving: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Send the gradients ``arriving`` into ``outputs`` and return those of ``leaves``; None where none comes.

    Raises:
        DataDependentError: the shape of an operator's result depends on values.
        NothingToTrainError: none comes at all.
        UnsupportedOperatorError: the backward raised, or a gradient is sparse.
    """
    try:
        torch.autograd.backward(outputs, arriving)
        gradients = [leaf.grad for leaf in leaves]
    except CaptureError:
        raise
    except Exception as error:
        raise _explained_in_backward(error) from error
    refuse_sparse_gradients(gradients)
    refuse_no_gradients(gradients)
    return list(gradients)


def _explained(error: Exception) -> CaptureError:
    source = raising_line(error)
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return _size_depends_on_values(error)
    if READS_OF_ADDRESSES in str(error):
        return address_error("", source)
    if lacks_fake(error):
        return without_fake_error(error, source)
    if any(text in str(error) for text in READS_OF_FAKES):
        return data_dependent_error("its memory", source, str(error).split("\n")[0].rstrip("."))
    if CALLS_COMPILED_CODE in str(error):
        return compiled_function_error(source)
    if (nested := nested_tensor_error(error, source)) is not None:
        return nested
    return model_raised_error(error, source)


def _explained_in_backward(error: Exception) -> CaptureError:
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return _size_depends_on_values(error)
    if READS_OF_ADDRESSES in str(error):
        return address_error("", raising_line(error))
    if lacks_fake(error):
        return without_fake_error(error, raising_line(error))
    return backward_raised_error(error, raising_line(error))


def _size_depends_on_values(error: DataDependentOutputException | DynamicOutputShapeException) -> DataDependentError:
    return data_dependent_error(error.func, raising_line(error), "the size of the result depends on it")
