"""Refusals of code that a step on tensors without memory cannot show: launches of kernels by address."""

from __future__ import annotations

from remat_planner.tracer.errors import UnsupportedOperatorError

_REGISTER = (
    "register the kernel as an operator (torch.library.custom_op, or torch.library.triton_op for Triton), or plan the blocks "
    "around it and leave the rest as it is (remat_planner.plan(model, ..., regions=...))"
)


def address_error(call: str, source: str) -> UnsupportedOperatorError:
    """For code outside of an autograd.Function that asks for an address, by ``call`` ("" where that is unknown)."""
    asked = f" ({call})" if call else ""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the code asks for the address of a tensor{asked}, as the launch of a kernel does, and while "
        "a step is captured its tensors have no memory: the plan would lack the kernel. Launch it in the forward of a "
        f"torch.autograd.Function, which runs as it is, {_REGISTER}",
        operator=call,
        source=source,
    )


def function_error(function: str, source: str, cause: str, why: str) -> UnsupportedOperatorError:
    """For an autograd.Function that fakes cannot run, for ``cause``, and that cannot be one operator either.

    ``why`` goes on from "one operator that runs as it is,".
    """
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {function} does not run on tensors without memory ({cause}). Such a Function is planned as "
        f"one operator that runs as it is, {why}. Change that, {_REGISTER}",
        operator=function,
        source=source,
    )


def drawing_function_error(function: str, source: str) -> UnsupportedOperatorError:
    """For a drawing Function in a block of torch.utils.checkpoint, whose second run would draw other numbers."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {function} draws random numbers, and torch.utils.checkpoint runs it twice on the same ones, "
        "which a captured step cannot do for a Function that runs as it is. Turn the checkpointing of this block off: the plan "
        "replaces it",
        operator=function,
        source=source,
    )
