"""What the transfers of a schedule do: bytes and links of each pool, stalls, and the copies of one storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from remat_planner.planner.reports.summary import NOT_IN_DOCUMENT
from remat_planner.schedules import Channel, Pool, PoolName, Schedule, Traffic, Transfer


@dataclass(frozen=True)
class LinkUse:
    """One direction of the link to a pool.

    Attributes:
        bytes_per_second: its rate.
        source: where the rate comes from: "measured", "table" or "given".
        bytes: copied in a step.
        busy_seconds: of the step, in which it copies.
        spans: begin and end of each copy, in seconds since the first step.
    """

    bytes_per_second: float
    source: str
    bytes: int
    busy_seconds: float
    spans: tuple[tuple[float, float], ...] = field(default=(), metadata=NOT_IN_DOCUMENT)


@dataclass(frozen=True)
class PoolUse:
    """A pool of a schedule.

    Attributes:
        budget_bytes: what copies may take there.
        bytes: what they take, in one buffer.
        outgoing, incoming: the link.
    """

    budget_bytes: int
    bytes: int
    outgoing: LinkUse
    incoming: LinkUse


@dataclass(frozen=True)
class OffloadSummary:
    """The transfers of a schedule.

    Attributes:
        pools: those of its graph, by name.
        stalled_seconds: time of the step in which the device waits for copies.
    """

    pools: Mapping[PoolName, PoolUse]
    stalled_seconds: float


@dataclass(frozen=True)
class Copy:
    """One copy of a result, by steps of the schedule.

    Attributes:
        pool: where it is.
        leaves: the step that starts the copy.
        released: the step that waits for it; the device's memory is free after that.
        returns: for each load, its step and the first step that reads what it brings.
        stalled_seconds: time that the device waits for this copy and its loads.
    """

    pool: PoolName
    leaves: int
    released: int
    returns: tuple[tuple[int, int], ...]
    stalled_seconds: float


def summarize_offload(schedule: Schedule) -> OffloadSummary | None:
    """What the transfers of ``schedule`` do; None where its graph has no pools."""
    if not schedule.graph.pools:
        return None
    traffic = schedule.simulation.traffic
    return OffloadSummary(
        pools={pool.name: _use(schedule, pool, traffic) for pool in schedule.graph.pools},
        stalled_seconds=0.0 if traffic is None else float(traffic.timing.stall.sum()),
    )


def copies_by_storage(schedule: Schedule) -> dict[int, list[Copy]]:
    """The copies of each storage that is copied, in order."""
    graph, traffic = schedule.graph, schedule.simulation.traffic
    if traffic is None:
        return {}
    waiting: dict[int, int] = {}  # the first step on the compute queue that waits for each transfer
    for step in sorted(traffic.waits):
        if not _on_a_channel(schedule, step):
            for transfer in traffic.waits[step]:
                waiting.setdefault(transfer, step)
    found: dict[int, list[Copy]] = {}
    for name, copies in traffic.pools.items():
        columns = (copies.storage, copies.store, copies.release, copies.last)
        for storage, store, release, last in zip(*(column.tolist() for column in columns), strict=True):
            load = graph.copy_steps(storage, name).load
            loads = [step for step in range(release, last) if schedule.steps[step] == load]
            returns = tuple((step, waiting[step]) for step in loads)
            stalled = sum(float(traffic.timing.stall[step]) for step in {release, *(reader for _, reader in returns)})
            found.setdefault(storage, []).append(Copy(name, store, release, returns, stalled))
    for copies_of_one in found.values():
        copies_of_one.sort(key=lambda copy: copy.leaves)
    return found


def _use(schedule: Schedule, pool: Pool, traffic: Traffic | None) -> PoolUse:
    taken = 0 if traffic is None else traffic.pools[pool.name].peak_bytes
    out = _link_use(schedule, pool, "store", pool.outgoing, traffic)
    back = _link_use(schedule, pool, "load", pool.incoming, traffic)
    return PoolUse(budget_bytes=pool.budget, bytes=taken, outgoing=out, incoming=back)


def _link_use(schedule: Schedule, pool: Pool, kind: str, channel: Channel, traffic: Traffic | None) -> LinkUse:
    chosen: list[tuple[int, Transfer]] = []
    for step, i in enumerate(schedule.steps):
        action = schedule.graph.actions[i]
        if isinstance(action, Transfer) and action.kind == kind and action.pool.name == pool.name:
            chosen.append((step, action))
    spans: tuple[tuple[float, float], ...] = ()
    if traffic is not None:
        spans = tuple((float(traffic.timing.begin[step]), float(traffic.timing.end[step])) for step, _ in chosen)
    return LinkUse(
        bytes_per_second=channel.bytes_per_second,
        source=channel.source,
        bytes=sum(transfer.bytes for _, transfer in chosen),
        busy_seconds=sum(end - begin for begin, end in spans),
        spans=spans,
    )


def _on_a_channel(schedule: Schedule, step: int) -> bool:
    action = schedule.graph.actions[schedule.steps[step]]
    return isinstance(action, Transfer) and action.channel is not None
