"""What a graph consists of: storages, the values that live in them, and the ops that read and write values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["forward", "backward"]


@dataclass(frozen=True, slots=True)
class Storage:
    """One allocation. ``constant`` storages (parameters, buffers, inputs) are counted in ``Graph.constants`` instead."""

    bytes: int
    constant: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: a view onto ``Graph.storages[storage]``.

    Attributes:
        eager_base: the value in whose memory the framework computes this one without a plan; None where that is its own.
    """

    name: str
    storage: int
    shape: tuple[int, ...] = ()
    dtype: str = ""
    eager_base: int | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One execution unit of the step.

    Attributes:
        name: unique and stable across traces; schedule files refer to ops by name.
        reads: the values it reads, as indices into ``Graph.values``.
        writes: the values it computes, as indices into ``Graph.values``.
        seconds: duration of one execution.
        flops: floating-point operations of one execution.
        workspace: bytes allocated only while the op runs.
        eager_workspace: bytes that the framework allocates beyond these while it runs the op without a plan.
        eager_reads: values that the framework retains until it has run the op without a plan, besides those that the op reads.
        extra_seconds: part of ``seconds`` that the framework does not take, since it runs this op and another as one.
        inexact: how it computes its results otherwise than the framework, which rounds otherwise; "" where the bits are equal.
        phase: "backward" if the op depends on the incoming gradient.
        pinned: why the op must run exactly once, or None.
        auxiliary: forward work that only the backward needs; it may first run anywhere before its first reader.
        outside: part of the caller's loss, which runs between the forward and the backward and cannot be moved.
        in_turn: draws random numbers or updates state; the first executions of such ops keep their order.
        replay_bytes: random-generator state held from the first to the last execution of an op that runs more than once.
        kind: the operator, for reports.
        module: path of the module, for reports.
        source: file:line, for reports.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    seconds: float = 0.0
    flops: int = 0
    workspace: int = 0
    phase: Phase = "forward"
    pinned: str | None = None
    auxiliary: bool = False
    outside: bool = False
    replay_bytes: int = 0
    kind: str = ""
    module: str = ""
    source: str = ""
    eager_workspace: int = 0
    eager_reads: tuple[int, ...] = ()
    extra_seconds: float = 0.0
    inexact: str = ""
    in_turn: bool = False
