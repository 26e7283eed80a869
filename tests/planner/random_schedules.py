"""Schedules that no solver would make: what may be evicted is, at random, and is recomputed on demand, often several times."""

from __future__ import annotations

import itertools
import random

from remat_planner.planner.codegen import copyable_storages
from remat_planner.planner.planning.captures import remember_capture
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import Step
from remat_planner.schedules import Channel, Graph, Origin, Pool, PoolName, Schedule
from remat_planner.solvers.problem.views import Views
from remat_planner.tracer import Joint, lower


def random_steps(graph: Graph, seed: int, *, evict: float = 0.6, evict_again: float = 0.05) -> tuple[int, ...]:
    """Steps in which forward values are evicted after the loss and again and again during the backward."""
    draw = random.Random(seed)
    producer = graph.producer
    steps: list[int] = []
    there: set[int] = set()
    ran: set[int] = set()

    def make(op: int) -> None:
        stack = [(op, False)]
        while stack:
            current, inputs_made = stack.pop()
            if current in there:
                continue
            if inputs_made:
                steps.append(current)
                there.add(current)
                ran.add(current)
                continue
            stack.append((current, True))
            makers = (producer[value] for value in graph.ops[current].reads)
            stack.extend((maker, False) for maker in makers if maker is not None and maker not in there)

    def evict_some(share: float) -> None:
        for op in sorted(there):
            movable = graph.ops[op].pinned is None and graph.ops[op].phase == "forward"
            if movable and draw.random() < share:
                there.discard(op)

    loss = next(i for i, op in enumerate(graph.ops) if op.outside)
    for i, op in enumerate(graph.ops):
        if (op.auxiliary and i < loss) or (i in ran and op.phase == "forward"):
            continue
        make(i)
        if i == loss:
            evict_some(evict)
        elif draw.random() < (0.05 if i < loss else 0.3):
            evict_some(evict_again)
    for i in range(len(graph.ops)):
        if i not in ran:
            make(i)
    return tuple(steps)


def random_copies(
    joint: Joint, graph: Graph, steps: tuple[int, ...], seed: int, *, copied: float = 0.5, pool: PoolName = "disk"
) -> tuple[Graph, tuple[int, ...]]:
    """``graph`` with a pool, and ``steps`` with random storages copied to it between two reads, at random moments."""
    draw = random.Random(seed)
    memory = Pool(pool, 10**12, Channel(1e9), Channel(1e9), block=64)
    graph = graph.with_transfers([memory], copyable_storages(graph, joint))
    sequence = [i for i in steps if i not in graph.free_views]
    uses: dict[int, list[int]] = {storage: [] for storage in graph.copied}
    for place, i in enumerate(sequence):
        op = graph.ops[i]
        for storage in {graph.values[value].storage for value in (*op.reads, *op.writes)} & uses.keys():
            uses[storage].append(place)
    inserted: list[tuple[float, int]] = []
    for storage, places in uses.items():
        for before, after in itertools.pairwise(places):
            written_again = any(storage in graph.allocated[i] for i in sequence[before + 1 : after + 1])
            if draw.random() < copied and not written_again:
                moments = sorted(draw.uniform(before, after) for _ in range(3))
                inserted += zip(moments, graph.copy_steps(storage, pool), strict=True)
    merged = sorted([*enumerate(sequence), *((moment + 1e-9, i) for moment, i in inserted)])
    return graph, Views(graph).restore(i for _, i in merged)


def schedule_of(joint: Joint, steps: tuple[int, ...] | None = None, *, graph: Graph | None = None) -> Schedule:
    """A schedule with its live capture; keep-everything where no steps are given."""
    graph = graph or lower(joint).graph
    steps = tuple(range(len(graph.ops))) if steps is None else steps
    schedule = Schedule(graph=graph, steps=steps, budget=10**12, solver="test", status="feasible", bound_seconds=0.0)
    remember_capture(schedule, Step(graph=graph, joint=joint, origin=Origin(), settings=Settings()))
    return schedule
