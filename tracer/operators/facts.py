"""The record of one operator: everything the planner knows about it that PyTorch does not declare.

The tables in ``tracer/operators/tables`` hold these records for PyTorch's own operators, ``register_operator`` adds those of
users, and ``facts_of`` looks them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from remat_planner.tracer.operators.op_call import OpCall, TensorSpec

Values = int | Callable[[torch.Tensor], object]
"""What fills a sample argument: an integer n stands for integers drawn from [0, n), as valid indices of n rows are; a function
gets the argument's whole storage as a one-dimensional tensor and fills it in place."""

SampleInputs = Callable[[OpCall], Mapping[str | TensorSpec, Values]]
"""The values that a call needs in its arguments, by the argument's name or its ``TensorSpec``."""

RATE_SHARE = 0.7
"""Share of the peak arithmetic rate that large matrix products reach."""
BANDWIDTH_SHARE = 0.8
"""Share of the peak memory bandwidth that streaming kernels reach."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """How to estimate an operator's time on a GPU from its data sheet.

    Attributes:
        bytes_moved: bytes that a call reads and writes; None: each argument and each result once.
        workspace: bytes that a call allocates beyond its arguments and results; None: unknown, counted as 0.
        rate_share: share of the peak arithmetic rate that the kernel reaches, in (0, 1].
        bandwidth_share: share of the peak memory bandwidth that it reaches, in (0, 1].
        kernels: FLOPs and bytes moved of each kernel, where a call runs several one after the other; None: it runs one.
        free: the call launches no kernel and takes no time, as ``torch.empty``.

    Raises:
        ValueError: a share is not in (0, 1].
    """

    bytes_moved: Callable[[OpCall], int] | None = None
    workspace: Callable[[OpCall], int] | None = None
    kernels: Callable[[OpCall], Sequence[tuple[int, int]]] | None = None
    rate_share: float = RATE_SHARE
    bandwidth_share: float = BANDWIDTH_SHARE
    free: bool = False

    def __post_init__(self) -> None:
        for name in ("rate_share", "bandwidth_share"):
            share = getattr(self, name)
            if not 0 < share <= 1:
                raise ValueError(f"Roofline({name}={share}): expected a share of the device's peak, above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class OperatorFacts:
    """What the planner knows about one operator. Every default means "as PyTorch declares it" or "nothing special".

    Attributes:
        pure: a call only computes its results: it may run again, and it is dropped where nothing reads them. None: yes for
            PyTorch's own operators, unknown and therefore no for others.
        pinned: why a call must run exactly once although it may be pure; None: no such reason. The text is part of a
            schedule's fingerprint, so a new text makes saved schedules stale.
        draws: a graph function draws from a random generator; for an operator PyTorch's tags say so.
        draws_if: name of the argument that switches random draws on (a dropout probability, or ``training``). Only for
            operators that PyTorch tags as random whatever their arguments are.
        hidden_updates: names of the arguments that a call with ``training=True`` updates although its schema does not say so.
        flops: floating point operations of a call, a multiply and an add counted as two; None: the formula in PyTorch's
            ``torch.utils.flop_counter``, or 0.
        roofline: how to estimate its time on a GPU that is not at hand.
        sample_inputs: the values that its arguments need when a call is measured alone; None: any values will do.
    """

    pure: bool | None = None
    pinned: str | None = None
    draws: bool = False
    draws_if: str | None = None
    hidden_updates: tuple[str, ...] = ()
    flops: Callable[[OpCall], int] | None = None
    roofline: Roofline = Roofline()
    sample_inputs: SampleInputs | None = None
