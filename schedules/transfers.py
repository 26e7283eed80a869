"""Copies of storages between the device and a pool of memory beside it: the pools, their links, and the transfer ops.

``Graph.with_transfers`` gives a step pools and names the storages that may be copied. Three transfers exist for each such
storage and pool:

- *store* starts a copy of the storage to the pool. It reads the storage and allocates a copy of it in the pool.
- *release* makes the compute queue wait for that store. It is the last read of this instance of the storage on the device.
- *load* allocates a new instance of the storage on the device and starts the copy back. Ops that read it wait for it.

A load is one more way to compute the values of a storage, so lifetimes on the device follow the rule that they follow without
transfers: an instance lives from the step that allocates it to the last step that reads it. Transfers are optional: a schedule
runs those that it needs. They share the index space of steps with the ops, after them (``Graph.actions``), so a sequence of
steps stays one sequence of integers, the order in which everything is issued.

A schedule must release what it stores, load only what it has stored and released, and read what it loads. With these rules
memory in every pool follows from positions in the sequence alone, whatever the speed of the links: device memory is never freed
while a copy still reads or writes it, and neither is a copy in a pool. Link rates only change times (``schedules.queues``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from remat_planner.schedules.errors import GraphError

PoolName = Literal["host", "disk"]
TransferKind = Literal["store", "release", "load"]
RateSource = Literal["measured", "table", "given"]


@dataclass(frozen=True, slots=True)
class Channel:
    """One direction of a link. Its copies run one after the other, in order of issue.

    Attributes:
        bytes_per_second: above zero; inf for copies that take only ``latency``.
        latency: seconds of a copy beyond its bytes.
        slowdown: factor, 1 or more, by which ops take longer while the channel copies.
        source: where these numbers come from: measured on the device, a table of devices, or given by the user.

    Raises:
        GraphError: a number is out of range or NaN.
    """

    bytes_per_second: float
    latency: float = 0.0
    slowdown: float = 1.0
    source: RateSource = "given"

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0:
            raise GraphError(
                f"a channel cannot copy {self.bytes_per_second!r} bytes per second: give a rate above zero, or no pool at all"
            )
        if not (math.isfinite(self.latency) and self.latency >= 0):
            raise GraphError(f"a channel has a latency of {self.latency!r} seconds: give a finite number, zero or more")
        if not (math.isfinite(self.slowdown) and self.slowdown >= 1):
            raise GraphError(f"a channel slows ops by a factor of {self.slowdown!r}: give a finite number, one or more")

    def seconds(self, size: int) -> float:
        """Seconds of a copy of ``size`` bytes."""
        return self.latency + size / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory beside the device that takes copies of storages.

    Attributes:
        name: "host" or "disk".
        budget: bytes that the copies may take, as laid out in one buffer (``schedules.copies``).
        outgoing: the channel of stores, from the device.
        incoming: the channel of loads, to the device.
        block: bytes that each copy is rounded up to a multiple of.

    Raises:
        GraphError: a size is negative, or the name is no pool's.
    """

    name: PoolName
    budget: int
    outgoing: Channel
    incoming: Channel
    block: int = 1

    def __post_init__(self) -> None:
        if self.name not in ("host", "disk"):
            raise GraphError(f"{self.name!r} is not a pool: the pools are host and disk")
        if self.budget < 0:
            raise GraphError(f"the {self.name} budget is {self.budget} bytes: a size cannot be negative")
        if self.block < 1:
            raise GraphError(f"copies on {self.name} are rounded up to {self.block} bytes: give one or more")

    def rounded(self, size: int) -> int:
        """Bytes that a copy of ``size`` bytes takes in the pool."""
        return -(-size // self.block) * self.block


class CopySteps(NamedTuple):
    """The step indices of the three transfers of one storage and pool."""

    store: int
    release: int
    load: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of one storage between the device and a pool; see the module's docstring.

    Attributes:
        name: unique among ops and transfers; schedule files refer to steps by name.
        kind: "store", "release" or "load".
        storage: index into ``Graph.storages``.
        values: the values that the copy restores, as indices into ``Graph.values``: those that the op writes that allocates the
            storage. Views of them must run again after a load, as after a recomputation.
        bytes: of the storage.
        pool: where the copy is.
    """

    name: str
    kind: TransferKind
    storage: int
    values: tuple[int, ...]
    bytes: int
    pool: Pool
    # What steps have in common with ops, so that a report can ask any of ``Graph.actions``.
    workspace: ClassVar[int] = 0
    phase: ClassVar[None] = None
    outside: ClassVar[bool] = False
    module: ClassVar[str] = ""

    @classmethod
    def of(cls, kind: TransferKind, what: str, storage: int, values: tuple[int, ...], size: int, pool: Pool) -> Transfer:
        """A transfer of ``storage``, which ``what`` names."""
        preposition = "from" if kind == "load" else "to"
        return cls(f"{kind} {what} {preposition} {pool.name}", kind, storage, values, size, pool)

    @property
    def channel(self) -> Channel | None:
        """The channel that copies; None for a release."""
        if self.kind == "release":
            return None
        return self.pool.outgoing if self.kind == "store" else self.pool.incoming

    @property
    def seconds(self) -> float:
        """Time on its channel; 0 for a release."""
        channel = self.channel
        return 0.0 if channel is None else channel.seconds(self.bytes)
