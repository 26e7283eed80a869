"""Time of a schedule with transfers: a simulation of the compute queue and of one queue for each channel.

Every queue runs in order of issue. An op, or a release, begins when the one before it on the compute queue is complete and the
transfers that it waits for are. A store or a load begins when the one before it on its channel is complete, and the steps on
the compute queue that were issued before it are. The last is what an event on the compute stream gives: only then is the
storage that a store reads computed, and only then may a load overwrite memory that an op before it released.

A channel may slow the ops that run beside its copies. An op that runs beside several is slowed by the product of their factors.
Copies that a step issues begin after it, so all that run beside an op are known when its turn comes: one pass is exact.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remat_planner.schedules.elements import Op
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.transfers import Channel


@dataclass(frozen=True, slots=True)
class Timing:
    """When each step runs; arrays have shape (steps,).

    Attributes:
        seconds: of the whole step: the ops, the stalls, and what copies beside the ops slow them by. Without stalls and
            slowing it equals the sum of the op times to the bit.
        begin, end: float64, seconds since the first step; of a release, the time that the compute queue waits.
        stall: float64, seconds that the compute queue waits for transfers before the step (at a release, in it).
    """

    seconds: float
    begin: np.ndarray
    end: np.ndarray
    stall: np.ndarray


def timing(graph: Graph, steps: Sequence[int], waits: Mapping[int, Sequence[int]]) -> Timing:
    """Simulate the queues.

    Args:
        graph: the training step.
        steps: indices into ``graph.actions``, valid by ``schedules.instances.walk``.
        waits: for each step that waits for transfers, their steps.
    """
    begin, end, stall = [0.0] * len(steps), [0.0] * len(steps), [0.0] * len(steps)
    compute = 0.0  # the time at which the compute queue is through with what was issued
    channels = {
        (pool.name, kind): _ChannelQueue(channel)
        for pool in graph.pools
        for kind, channel in (("store", pool.outgoing), ("load", pool.incoming))
    }
    slowing = [queue for queue in channels.values() if queue.channel.slowdown > 1]
    terms: list[float] = []
    for step, i in enumerate(steps):
        action = graph.actions[i]
        ready = max((end[k] for k in waits.get(step, ())), default=0.0)
        if isinstance(action, Op) or action.kind == "release":
            stall[step] = max(0.0, ready - compute)
            begin[step] = compute if action.kind == "release" else max(compute, ready)
            compute = max(compute, ready)
            if isinstance(action, Op):
                slowed = _slowed_by(slowing, compute, action.seconds) if slowing else 0.0
                terms += (action.seconds, slowed)
                compute += action.seconds + slowed
            end[step] = compute
        else:
            queue = channels[action.pool.name, action.kind]
            begin[step] = max(compute, ready, queue.free)
            end[step] = queue.free = begin[step] + action.seconds
            if queue.channel.slowdown > 1:
                queue.busy.append((begin[step], end[step]))
    return Timing(math.fsum((*terms, *stall)), *(np.array(column, dtype=np.float64) for column in (begin, end, stall)))


class _ChannelQueue:
    """A channel, the time at which it is free, and the spans in which it copies that may lie beside ops to come."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.free = 0.0
        self.busy: deque[tuple[float, float]] = deque()

    def at(self, time: float) -> tuple[float, float]:
        """The factor by which it slows ops at ``time``, and the time until which that holds; drops earlier spans."""
        while self.busy and self.busy[0][1] <= time:
            self.busy.popleft()
        if not self.busy:
            return 1.0, math.inf
        first, last = self.busy[0]
        return (1.0, first) if time < first else (self.channel.slowdown, last)


def _slowed_by(queues: Sequence[_ChannelQueue], time: float, seconds: float) -> float:
    """Seconds that an op of ``seconds``, begun at ``time``, takes longer because of the copies beside it."""
    longer, left = 0.0, seconds
    while left > 0:
        states = [queue.at(time) for queue in queues]
        factor = math.prod(factor for factor, _ in states)
        span = min((until for _, until in states), default=math.inf) - time
        if left * factor <= span:
            return longer + left * (factor - 1.0)
        longer += span - span / factor
        left -= span / factor
        time += span
    return longer
