"""The one judge of time and peak memory: solvers, reports and tests all take their figures from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules.copies import PoolCopies
from remat_planner.schedules.errors import InvalidScheduleError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.instances import Walk, walk
from remat_planner.schedules.pieces import live_bytes
from remat_planner.schedules.queues import Timing, timing
from remat_planner.schedules.transfers import PoolName


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the transfers of a schedule do.

    Attributes:
        timing: when each step runs, and where the compute queue stalls.
        pools: the copies in each pool of the graph, with their places.
        waits: for each step that waits for transfers, their steps.
    """

    timing: Timing
    pools: Mapping[PoolName, PoolCopies]
    waits: Mapping[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Simulation:
    """Seconds and bytes of a sequence of steps.

    Attributes:
        seconds: sum of the op times; with transfers, the time that ``Traffic.timing`` shows.
        peak_bytes: maximum of ``bytes`` and of the optimizer's step that follows (``Graph.update_peak``).
        bytes: int64 array of shape (steps,): bytes allocated on the device while each step runs, constants and workspace
            included.
        traffic: what the transfers do; None for a sequence without transfers.
    """

    seconds: float
    peak_bytes: int
    bytes: np.ndarray
    traffic: Traffic | None = None

    @property
    def peak_step(self) -> int:
        """The first step at which ``bytes`` is highest."""
        return int(np.argmax(self.bytes)) if len(self.bytes) else 0

    @property
    def pool_peaks(self) -> dict[PoolName, int]:
        """Bytes that the copies take in each pool that has any."""
        pools = {} if self.traffic is None else self.traffic.pools
        return {name: copies.peak_bytes for name, copies in pools.items() if copies.peak_bytes}


def simulate(graph: Graph, steps: Sequence[int]) -> Simulation:
    """Seconds and bytes of executing ``steps`` (indices into ``graph.actions``).

    Raises:
        InvalidScheduleError: the steps cannot run, as in ``schedules.instances.walk``, or copies exceed the budget of a pool.
    """
    walked = walk(graph, steps)
    pieces = walked.pieces.lifetimes()
    actions = graph.actions
    workspace = np.array([actions[i].workspace for i in steps], dtype=np.int64)
    live = live_bytes(pieces.birth, pieces.death, pieces.bytes, len(steps)) + workspace + graph.constant_bytes
    traffic = _traffic(graph, steps, walked)
    return Simulation(
        seconds=math.fsum(actions[i].seconds for i in steps) if traffic is None else traffic.timing.seconds,
        peak_bytes=max(int(live.max(initial=0)), graph.update_peak),
        bytes=live,
        traffic=traffic,
    )


def _traffic(graph: Graph, steps: Sequence[int], walked: Walk) -> Traffic | None:
    """What the transfers of ``steps`` do; None where there are none.

    Raises:
        InvalidScheduleError: copies exceed the budget of a pool.
    """
    ledger = walked.ledger
    if ledger is None or not ledger.copies:
        return None
    pools = {pool.name: PoolCopies.of(pool, ledger.copies) for pool in graph.pools}
    for name, copies in pools.items():
        ends = copies.offset + copies.bytes
        if (over := ends > copies.pool.budget).any():
            step = int(copies.store[np.argmax(over)])
            store = graph.actions[steps[step]].name
            raise InvalidScheduleError(
                f"step {step} runs {store!r}: copies then take {int(ends[np.argmax(over)]):,} bytes, above the {name} budget "
                f"of {copies.pool.budget:,}",
                step=step,
                op=store,
            )
    return Traffic(timing(graph, steps, ledger.waits), pools, ledger.waits)
