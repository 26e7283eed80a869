"""The cost of a training step that eager PyTorch runs with parts of its forward in ``torch.utils.checkpoint``.

A schedule recomputes each tensor just before it is needed. A checkpoint recomputes its region at once, when the backward first
unpacks a tensor that the region saved, and up to the last op that saves one. So the same graph gets other steps here. The
simulator judges them like any schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import fx

from remat_planner.planner.gpu_allocator import allocator_peak
from remat_planner.planner.planning import eager_graph, settings_of
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.tracer import Joint
from remat_planner.tracer.joint import EagerOperator


@dataclass(frozen=True)
class CheckpointRegion:
    """The forward ops that one checkpoint runs.

    Attributes:
        ops: indices into ``Graph.ops``, ascending.
        modules: the modules whose calls the region consists of, in their order; empty for a part of one module.
        saved: ops that selective checkpointing saves instead of recomputing.
        discards: the region's output is freed after the forward too, and recomputed when the backward needs it.
    """

    ops: tuple[int, ...]
    modules: tuple[str, ...] = ()
    saved: frozenset[int] = frozenset()
    discards: bool = False


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step, and bytes at its peak of what the budget limits."""

    seconds: float
    peak_bytes: int


class EagerStep:
    """A captured step, to be simulated with checkpointed regions.

    Attributes:
        graph: the step as eager runs it, whose seconds and bytes count.
        joint: the capture that it was lowered from.
        on_gpu: whether the bytes are a GPU's.
        budget_on: which of them the budget limits, "allocated" or "reserved".
        loss: the op between forward and backward.
    """

    def __init__(self, schedule: Schedule, joint: Joint) -> None:
        graph = eager_graph(schedule, joint, settings_of(schedule))
        self.graph = graph
        self.joint = joint
        self.on_gpu = schedule.origin.allocation_block > 1
        self.budget_on = schedule.origin.budget_on
        self.loss = next(i for i, op in enumerate(graph.ops) if op.outside)
        self._node = {node.meta["name"]: node for node in joint.ops}
        self._last_recomputed: dict[tuple[tuple[str, ...] | tuple[int, ...], bool], int | None] = {}
        self._ops_in: dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def node(self, op: int) -> fx.Node:
        """The captured node of an op."""
        return self._node[self.graph.ops[op].name]

    def operator(self, op: int) -> EagerOperator | None:
        """The operator that eager runs for an op; None for the loss and for an op that the capture added."""
        node = self._node.get(self.graph.ops[op].name)
        place = None if node is None else node.meta.get("operator")
        return None if place is None else self.joint.operators[place]

    def ops_of(self, *modules: str) -> tuple[int, ...]:
        """The ops that the forwards of these modules run, those of their submodules included."""
        return self._ops_within(modules)[0]

    def region(self, *modules: str) -> CheckpointRegion:
        """The region of one checkpoint around these modules, called one after the other."""
        return CheckpointRegion(self.ops_of(*modules), modules)

    def recomputes(self, module: str) -> bool:
        """Whether a checkpoint around ``module`` recomputes any op."""
        return self.last_recomputed(self.region(module)) is not None

    def last_recomputed(self, region: CheckpointRegion) -> int | None:
        """The last op of ``region`` that a checkpoint recomputes; None where it recomputes nothing."""
        key = (region.modules or region.ops, region.discards)
        if key not in self._last_recomputed:
            needed = self._needed(region)
            ops = self.graph.ops
            self._last_recomputed[key] = max((i for i in region.ops if needed.intersection(ops[i].writes)), default=None)
        return self._last_recomputed[key]

    def cost(self, regions: Sequence[CheckpointRegion] = ()) -> StepCost:
        """The predicted cost of the step with each of ``regions`` checkpointed.

        Raises:
            schedules.InvalidScheduleError: a region recomputes an op that must run once.
        """
        graph = self.graph
        unpacked_by = self._unpacking_ops(regions)
        recomputed = [self._recomputed(region) for region in regions]
        steps = list(range(self.loss + 1))
        ops = list(graph.ops)
        done: set[int] = set()
        for i in range(self.loss + 1, len(graph.ops)):
            for number in unpacked_by.get(i, ()):
                if number not in done:
                    done.add(number)
                    steps += recomputed[number]
                    # Saved results stay until the region is recomputed, even if that does not read them.
                    saved = (value for op in regions[number].saved for value in graph.ops[op].writes)
                    ops[i] = replace(ops[i], reads=tuple(dict.fromkeys((*ops[i].reads, *saved))))
            steps.append(i)
        for i, size in self._generator_states(regions, recomputed).items():
            if ops[i].replay_bytes != size:
                ops[i] = replace(ops[i], replay_bytes=size)
        return self._simulated(replace(graph, ops=tuple(ops)), steps)

    def cost_of(self, schedule: Schedule) -> StepCost:
        """The predicted cost of the schedule itself."""
        return self._simulated(schedule.graph, schedule.steps)

    def _simulated(self, graph: Graph, steps: Sequence[int]) -> StepCost:
        simulation = simulate(graph, steps)
        peak = simulation.peak_bytes
        if self.on_gpu:
            peak = allocator_peak(graph, reserved=self.budget_on == "reserved")(steps)
        return StepCost(simulation.seconds, peak)

    def _generator_states(self, regions: Sequence[CheckpointRegion], recomputed: Sequence[list[int]]) -> dict[int, int]:
        """Bytes of random state by the op that retains it: one state for each checkpoint, and none for the draws in it.

        The state of a GPU's generator is in the memory of the host.
        """
        size = 0 if self.on_gpu else torch.get_rng_state().nbytes
        draws = {i: 0 for region in regions for i in region.ops}
        return draws | {ops[0]: size for ops in recomputed if ops}

    def _recomputed(self, region: CheckpointRegion) -> list[int]:
        last = self.last_recomputed(region)
        return [] if last is None else [i for i in region.ops if i <= last and i not in region.saved]

    def _needed(self, region: CheckpointRegion) -> set[int]:
        """The values of the region that its own backward reads."""
        written = {value for i in region.ops for value in self.graph.ops[i].writes}
        if region.modules:
            backward = self._ops_within(region.modules)[1]
            return {value for i in backward for value in self.graph.ops[i].reads if value in written}
        if not region.discards:
            inside = set(region.ops)
            written = {v for v in written if all(i in inside or i > self.loss for i in self._readers[v])}
        return {value for value in written if any(i > self.loss for i in self._readers[value])}

    def _unpacking_ops(self, regions: Sequence[CheckpointRegion]) -> dict[int, list[int]]:
        """For each backward op the regions, by number, whose recomputation it starts if none did before."""
        numbers_of: dict[int, list[int]] = {}
        for number, region in enumerate(regions):
            if self.last_recomputed(region) is None:
                continue
            if region.modules:
                unpacking: Iterable[int] = (i for i in self._ops_within(region.modules)[1] if self._unpacks[i])
            else:
                unpacking = {i for value in self._needed(region) for i in self._readers[value] if i > self.loss}
            for i in unpacking:
                numbers_of.setdefault(i, []).append(number)
        return numbers_of

    def _ops_within(self, modules: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The forward ops and the backward ops of these modules."""
        if modules not in self._ops_in:
            inside = {m for m in self._modules if any(m == outer or m.startswith(f"{outer}.") for outer in modules)}
            ops = [i for i, op in enumerate(self.graph.ops) if op.module in inside]
            self._ops_in[modules] = tuple(i for i in ops if i < self.loss), tuple(i for i in ops if i > self.loss)
        return self._ops_in[modules]

    @cached_property
    def _modules(self) -> frozenset[str]:
        return frozenset(op.module for op in self.graph.ops)

    @cached_property
    def _readers(self) -> tuple[tuple[int, ...], ...]:
        readers: list[list[int]] = [[] for _ in self.graph.values]
        for i, op in enumerate(self.graph.ops):
            for value in op.reads:
                readers[value].append(i)
        return tuple(map(tuple, readers))

    @cached_property
    def _unpacks(self) -> tuple[bool, ...]:
        """For each op whether it reads an activation, a parameter or an input: what autograd's nodes save."""
        producer = self.graph.producer
        return tuple(any((p := producer[v]) is None or p < self.loss for v in op.reads) for op in self.graph.ops)
