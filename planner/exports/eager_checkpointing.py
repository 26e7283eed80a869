"""The training step as eager PyTorch runs it where parts of its forward are wrapped with ``torch.utils.checkpoint``.

A schedule computes each tensor again just before it is needed. A checkpoint computes all of its region again at once, when the
backward first asks for anything that the region saved, up to the last operator that saves something; and autograd holds what a
node saved until the whole node has run. So the same graph gets other steps here, and longer lives, and is judged by the same
simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import fx

from remat_planner.planner.gpu_allocator import allocator_bytes
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.tracer import Joint
from remat_planner.tracer.joint import Operator


@dataclass(frozen=True)
class Region:
    """What one checkpoint runs, as ops of the forward.

    Attributes:
        ops: indices into ``Graph.ops``, ascending.
        modules: the modules whose calls it is, in their order; empty where it is a part of one.
        saved: ops that selective checkpointing saves rather than computing them again.
        discards: its output is freed after the forward too, and computed again when the backward asks for it.
    """

    ops: tuple[int, ...]
    modules: tuple[str, ...] = ()
    saved: frozenset[int] = frozenset()
    discards: bool = False


@dataclass(frozen=True)
class Run:
    """What a way to run the step costs: seconds, and bytes at the peak of what the budget limits."""

    seconds: float
    peak_bytes: int


class EagerStep:
    """A captured step, to be simulated with checkpointed regions.

    Attributes:
        graph: the schedule's step, whose costs and bytes count.
        joint: the capture that it was lowered from.
        on_gpu: whether the bytes are a GPU's.
        budget_on: what of them the budget limits.
        loss: the op between forward and backward.
    """

    def __init__(self, schedule: Schedule, joint: Joint) -> None:
        graph = schedule.graph
        self.graph = graph
        self.joint = joint
        self.on_gpu = schedule.origin.allocation_block > 1
        self.budget_on = schedule.origin.budget_on
        self.loss = next(i for i, op in enumerate(graph.ops) if op.outside)
        self._node = {node.meta["name"]: node for node in joint.ops}
        self._stops: dict[tuple[tuple[str, ...] | tuple[int, ...], bool], int] = {}
        self._inside: dict[tuple[str, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._ops = tuple(
            replace(op, reads=tuple(dict.fromkeys((*op.reads, *held)))) if held else op
            for op, held in zip(graph.ops, self._reads_held_by_autograd(), strict=True)
        )

    def node(self, op: int) -> fx.Node:
        """The captured node behind an op."""
        return self._node[self.graph.ops[op].name]

    def operator(self, op: int) -> Operator | None:
        """What eager runs for an op; None where the capture itself put it there, and for the loss."""
        node = self._node.get(self.graph.ops[op].name)
        place = None if node is None else node.meta.get("operator")
        return None if place is None else self.joint.operators[place]

    def ops_of(self, *modules: str) -> tuple[int, ...]:
        """The ops that the forwards of these modules run, those of their submodules included."""
        return self._ops_within(modules)[0]

    def region(self, *modules: str) -> Region:
        """The region of one checkpoint around these modules, called one after the other."""
        return Region(self.ops_of(*modules), modules)

    def run(self, regions: Sequence[Region] = ()) -> Run:
        """The step with each of ``regions`` checkpointed, on paper.

        Raises:
            schedules.InvalidScheduleError: a region runs an op again that must run once.
        """
        graph = self.graph
        asking = self._asking(regions)
        again = [self._computed_again(region) for region in regions]
        steps = list(range(self.loss + 1))
        ops = list(self._ops)
        done: set[int] = set()
        for i in range(self.loss + 1, len(graph.ops)):
            for number in asking.get(i, ()):
                if number not in done:
                    done.add(number)
                    steps += again[number]
                    # What was saved stays until the region is computed again, whether that reads it or not.
                    saved = (value for op in regions[number].saved for value in graph.ops[op].writes)
                    ops[i] = replace(ops[i], reads=tuple(dict.fromkeys((*ops[i].reads, *saved))))
            steps.append(i)
        for i, size in self._generator_states(regions, again).items():
            if ops[i].replay_bytes != size:
                ops[i] = replace(ops[i], replay_bytes=size)
        return self._judged(replace(graph, ops=tuple(ops)), steps)

    def run_of(self, schedule: Schedule) -> Run:
        """The schedule itself, judged as the regions are."""
        return self._judged(schedule.graph, schedule.steps)

    def _judged(self, graph: Graph, steps: Sequence[int]) -> Run:
        run = simulate(graph, steps)
        peak = allocator_bytes(graph, reserved=self.budget_on == "reserved")(steps) if self.on_gpu else run.peak_bytes
        return Run(run.seconds, peak)

    def stop(self, region: Region) -> int:
        """The last op of ``region`` that a checkpoint computes again; -1 where it computes nothing."""
        key = (region.modules or region.ops, region.discards)
        if key not in self._stops:
            needed = self._needed(region)
            ops = self.graph.ops
            self._stops[key] = max((i for i in region.ops if needed.intersection(ops[i].writes)), default=-1)
        return self._stops[key]

    def _generator_states(self, regions: Sequence[Region], again: Sequence[list[int]]) -> dict[int, int]:
        """Bytes of random state by the op that holds it: one for each checkpoint, whatever it draws, and none for the draws.

        The state of a GPU's generator lies in the memory of the host.
        """
        size = 0 if self.on_gpu else torch.get_rng_state().nbytes
        draws = {i: 0 for region in regions for i in region.ops}
        return draws | {ops[0]: size for ops in again if ops}

    def _computed_again(self, region: Region) -> list[int]:
        stop = self.stop(region)
        return [i for i in region.ops if i <= stop and i not in region.saved]

    def _needed(self, region: Region) -> set[int]:
        """The values of the region that its own backward reads."""
        written = {value for i in region.ops for value in self.graph.ops[i].writes}
        if region.modules:
            own = self._backward_of(region.modules)
            return {value for i in own for value in self.graph.ops[i].reads if value in written}
        if not region.discards:
            inside = set(region.ops)
            written = {v for v in written if all(i in inside or i > self.loss for i in self._readers[v])}
        return {value for value in written if any(i > self.loss for i in self._readers[value])}

    def _asking(self, regions: Sequence[Region]) -> dict[int, list[int]]:
        """The regions that an op of the backward makes compute again, by the op."""
        asking_of: dict[int, list[int]] = {}
        for number, region in enumerate(regions):
            if self.stop(region) < 0:
                continue
            if region.modules:
                asking: Iterable[int] = (i for i in self._backward_of(region.modules) if self._unpacks[i])
            else:
                asking = {i for value in self._needed(region) for i in self._readers[value] if i > self.loss}
            for i in asking:
                asking_of.setdefault(i, []).append(number)
        return asking_of

    def _backward_of(self, modules: tuple[str, ...]) -> tuple[int, ...]:
        """The ops of the backward that belong to these modules."""
        return self._ops_within(modules)[1]

    def _ops_within(self, modules: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ops of these modules up to the loss, and after it."""
        if modules not in self._inside:
            inside = {m for m in self._modules if any(m == outer or m.startswith(f"{outer}.") for outer in modules)}
            found = [i for i, op in enumerate(self.graph.ops) if op.module in inside]
            self._inside[modules] = tuple(i for i in found if i < self.loss), tuple(i for i in found if i > self.loss)
        return self._inside[modules]

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
        """For each op whether it reads what the forward left: an activation, a parameter or an input."""
        producer = self.graph.producer
        return tuple(any((p := producer[v]) is None or p < self.loss for v in op.reads) for op in self.graph.ops)

    def _reads_held_by_autograd(self) -> Iterator[tuple[int, ...]]:
        """For each op what it must be counted to read so that an autograd node's inputs live until the node is over."""
        ops = self.graph.ops
        for number, run in groupby(range(len(ops)), key=self._autograd_node):
            members = list(run)
            if number is None:
                yield from (() for _ in members)
                continue
            written = {value for i in members for value in ops[i].writes}
            yield from (() for _ in members[1:])
            yield tuple(dict.fromkeys(value for i in members for value in ops[i].reads if value not in written))

    def _autograd_node(self, op: int) -> int | None:
        operator = self.operator(op) if op > self.loss else None
        return None if operator is None else operator.autograd_node
