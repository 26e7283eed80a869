"""Which instance of its storage each read binds to, as a sequence of steps executes, and how long each instance lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remat_planner.schedules.copy_ledger import CONSTANT, NOT_COMPUTED, CopyLedger, unavailable
from remat_planner.schedules.errors import InvalidScheduleError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.pieces import Lifetimes, Pieces


@dataclass(frozen=True, slots=True)
class Walk:
    """What executing a sequence of steps allocates.

    Attributes:
        pieces: allocations on the device.
        ledger: the transfers; None where the graph has none.
    """

    pieces: Pieces
    ledger: CopyLedger | None


def lifetimes(graph: Graph, steps: Sequence[int]) -> Lifetimes:
    """When each allocation on the device is made and released as ``steps`` (indices into ``graph.actions``) execute.

    Each execution of an op allocates new instances of the storages it writes, and so does a load. A read binds to the newest
    instance of the value. An instance lives from the step that allocates it to the last step that reads any value on it, both
    included; the first instance of a result lives to the end. An op that runs more than once holds its random state from first
    to last execution.

    Raises:
        InvalidScheduleError: as ``walk``.
    """
    return walk(graph, steps).pieces.lifetimes()


def walk(graph: Graph, steps: Sequence[int]) -> Walk:
    """Execute ``steps`` on instances of storages, by the rules of ``lifetimes`` and of ``schedules.transfers``.

    Raises:
        InvalidScheduleError: an op reads what has not been computed or has been released, a pinned op runs twice, an op never
            runs; a storage is released or loaded without a store, stored without a release, or loaded for no reader.
    """
    storage_of = [value.storage for value in graph.values]
    # The storage instance of each value's newest computation: a state below zero, or an index into ``pieces``.
    instance_of = [CONSTANT if graph.storages[s].constant else NOT_COMPUTED for s in storage_of]
    results = set(graph.results)
    pieces = Pieces()
    ledger = CopyLedger(graph, instance_of, pieces) if graph.pools else None
    result_instances: list[int] = []
    number_of_ops = len(graph.ops)
    first_run = [-1] * number_of_ops
    last_run = [-1] * number_of_ops
    for step, i in enumerate(steps):
        if not 0 <= i < number_of_ops:
            if ledger is None or not 0 <= i < len(graph.actions):
                count = len(graph.actions)
                raise InvalidScheduleError(f"step {step} runs op {i}, but the graph has {count} ops", step=step, op=str(i))
            ledger.run(step, graph.transfers[i - number_of_ops])
            continue
        op = graph.ops[i]
        if first_run[i] < 0:
            first_run[i] = step
        elif op.pinned is not None:
            raise InvalidScheduleError(
                f"step {step} runs {op.name!r} again, which must run once: {op.pinned}", step=step, op=op.name
            )
        last_run[i] = step
        touched: dict[int, int] = {}  # storage: the instance of it that this execution reads or allocates
        for value in op.reads:
            instance = instance_of[value]
            if instance < CONSTANT:
                if ledger is None:
                    raise unavailable(graph, step, op.name, value)
                instance = ledger.read(step, op.name, value)
            if instance != CONSTANT:
                pieces.death[instance] = step
                touched.setdefault(storage_of[value], instance)
        for value in op.writes:
            if instance_of[value] == CONSTANT:
                continue
            storage = storage_of[value]
            if storage not in touched:
                touched[storage] = pieces.add(storage, graph.storages[storage].bytes, step, step)
            if value in results and instance_of[value] == NOT_COMPUTED:
                result_instances.append(touched[storage])
            instance_of[value] = touched[storage]
    for i, step in enumerate(first_run):
        if step < 0:
            raise InvalidScheduleError(f"{graph.ops[i].name!r} never runs", step=None, op=graph.ops[i].name)
    if ledger is not None:
        ledger.finish()
    for instance in result_instances:
        pieces.death[instance] = len(steps) - 1
    for i, op in enumerate(graph.ops):
        if op.replay_bytes and last_run[i] > first_run[i]:
            pieces.add(-1, op.replay_bytes, first_run[i], last_run[i])
    return Walk(pieces, ledger)
