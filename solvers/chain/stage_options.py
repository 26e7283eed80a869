"""Options of the stages of a chain: items that a stage may retain for its backward, and the numbers for ``persistent_dp``."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from remat_planner.solvers.chain.actions import Action, SweptSequence, sweep
from remat_planner.solvers.chain.persistent_dp import Stages
from remat_planner.solvers.chain.stages import Chain, Stage
from remat_planner.solvers.problem import Ints, Problem

# Options of a stage: each retains less than the one before by at least one such share of the bytes that its backward reads.
SHARES = 8


@dataclass(frozen=True)
class Measured:
    """A chain's options in bytes and seconds.

    Attributes:
        options: for each stage the sets of items that a save may retain; the first is everything that its backward reads.
        stages: the numbers, memory in bytes beyond ``graph.constant_bytes``.
    """

    options: tuple[tuple[tuple[int, ...], ...], ...]
    stages: Stages


def measure(chain: Chain, shares: int = SHARES) -> Measured:
    """Make options for each stage, one for each of ``shares`` shares of its bytes, and measure them.

    With 0 shares a stage has one option: it retains everything that its backward reads.
    """
    problem = chain.forward.problem
    count = len(chain.stages)
    options = [_options(chain, i, shares) for i in range(count)]
    most = max(map(len, options))
    outputs = [*(stage.inputs for stage in chain.stages[1:]), ()]
    inputs = np.array([_bytes(problem, stage.inputs) for stage in chain.stages], dtype=np.int64)
    forward, forward_needs = np.zeros((2, count)), np.zeros((2, count), dtype=np.int64)
    save, save_needs = np.full((2, count, most), np.inf), np.zeros((2, count, most), dtype=np.int64)
    saved = np.zeros((count, most), dtype=np.int64)
    standing = _standing(chain)
    for i, stage in enumerate(chain.stages):
        stays = {item for node in stage.nodes for item in problem.writes[node]}.difference(stage.made)
        everything = _seconds(problem, stage.nodes)
        again = _to_run(problem, stage, outputs[i], ())
        forward[:, i] = _seconds(problem, again), everything
        forward_needs[0, i] = _peak(problem, again, outputs[i])
        forward_needs[1, i] = standing[i] + _peak(problem, stage.nodes, stays.union(outputs[i]))
        for k, kept in enumerate(options[i]):
            rest = _seconds(problem, _to_run(problem, stage, set(stage.saved).difference(kept), kept))
            targets = {*kept, *outputs[i]}
            again = _to_run(problem, stage, targets, ())
            save[:, i, k] = _seconds(problem, again) + rest, everything + rest
            save_needs[0, i, k] = _peak(problem, again, targets)
            save_needs[1, i, k] = standing[i] + _peak(problem, stage.nodes, stays.union(targets))
            saved[i, k] = _bytes(problem, targets)
    columns = [_backward(chain, options, k) for k in range(most)]
    stages = Stages(
        inputs=inputs,
        forward=forward,
        forward_needs=forward_needs,
        save=save,
        save_needs=save_needs,
        saved=saved,
        backward_needs=np.stack([needs for needs, _ in columns], axis=1),
        beside=np.max([beside for _, beside in columns], axis=0),
    )
    return Measured(tuple(map(tuple, options)), stages)


def in_slots(stages: Stages, unit: int) -> Stages:
    """The same with memory in slots of ``unit`` bytes, rounded up."""

    def up(sizes: np.ndarray) -> np.ndarray:
        return -(-sizes // unit)

    return stages._replace(
        inputs=up(stages.inputs),
        forward_needs=up(stages.forward_needs),
        save_needs=up(stages.save_needs),
        saved=up(stages.saved),
        backward_needs=up(stages.backward_needs),
        beside=up(stages.beside),
    )


def _options(chain: Chain, i: int, shares: int) -> list[tuple[int, ...]]:
    """All items that the backward of stage ``i`` reads; then ever fewer, dropping the most bytes per second first."""
    problem, stage = chain.forward.problem, chain.stages[i]
    items: dict[int, list[int]] = {}
    for item in stage.saved:
        items.setdefault(int(problem.producer[item]), []).append(item)
    kept = set(stage.saved)
    again: set[int] = set()
    options = [stage.saved]
    if not shares:
        return options

    def rate(node: int) -> float:
        """Bytes per second of recomputation, negative, of dropping the results of a node from the items that are kept now."""
        nodes = _to_run(problem, stage, items[node], kept.difference(items[node]))
        return -_bytes(problem, items[node]) / max(_seconds(problem, [v for v in nodes if v not in again]), 1e-300)

    heap = [(rate(node), node) for node in items]
    heapq.heapify(heap)
    total = share = _bytes(problem, stage.saved)
    while heap:
        _, node = heap[0]
        current = rate(node)
        if len(heap) > 1 and current > min(heap[1:3])[0]:
            heapq.heapreplace(heap, (current, node))  # items dropped since have made it dearer
            continue
        heapq.heappop(heap)
        kept.difference_update(items[node])
        again.update(_to_run(problem, stage, items[node], kept))
        left = _bytes(problem, kept)
        if left <= share - total / shares or not heap:
            share = left
            options.append(tuple(sorted(kept)))
    return options


def _to_run(problem: Problem, stage: Stage, targets: Iterable[int], resident: Collection[int]) -> list[int]:
    """The nodes of a stage to run for ``targets``, ascending, given its inputs, ``resident``, and shared and fixed items."""
    made = set(stage.made).difference(resident)
    pending = [int(problem.producer[item]) for item in targets if item in made]
    nodes: set[int] = set()
    while pending:
        node = pending.pop()
        if node not in nodes:
            nodes.add(node)
            pending += [int(problem.producer[item]) for item in problem.reads[node] if item in made]
    return sorted(nodes)


def _peak(problem: Problem, nodes: Sequence[int], stays: Collection[int]) -> int:
    """Bytes at the peak of running ``nodes``, of the items that they write; those in ``stays`` live to the end."""
    last: dict[int, int] = {}
    for step, node in enumerate(nodes):
        last.update((item, step) for item in problem.reads[node])
        last.update((item, step) for item in problem.writes[node])
    change = [0] * (len(nodes) + 1)
    for step, node in enumerate(nodes):
        for item in problem.writes[node]:
            size = int(problem.bytes[item])
            change[step] += size
            if item not in stays:
                change[last[item] + 1] -= size
    live, peak = 0, 0
    for step, node in enumerate(nodes):
        live += change[step]
        peak = max(peak, live + int(problem.workspace[node]))
    return peak


def _standing(chain: Chain) -> list[int]:
    """For each stage the bytes of earlier shared and fixed items, which stay whatever is checkpointed."""
    problem = chain.forward.problem
    begins = [stage.nodes[0] for stage in chain.stages]
    change = [0] * (len(chain.stages) + 1)
    for i, stage in enumerate(chain.stages):
        for node in stage.nodes:
            for item in set(problem.writes[node]).difference(stage.made):
                last = problem.n if problem.lasting[item] else max(problem.readers[item], default=-1)
                end = bisect_right(begins, last)  # stages that begin up to the last reader
                if end > i + 1:
                    change[i + 1] += int(problem.bytes[item])
                    change[end] -= int(problem.bytes[item])
    return list(accumulate(change[:-1]))


def _backward(chain: Chain, options: Sequence[Sequence[tuple[int, ...]]], k: int) -> tuple[Ints, Ints]:
    """``backward_needs`` of option ``k`` (the last one where a stage has fewer), and ``beside``.

    Both come from a simulated run in which every input is a snapshot.
    """
    problem = chain.forward.problem
    count = len(chain.stages)
    actions = [Action(kind, i) for i in range(count - 1) for kind in ("snapshot", "forward")]
    actions.append(Action("snapshot", count - 1))
    for i in range(count - 1, -1, -1):
        actions += [Action("save", i, min(k, len(options[i]) - 1)), Action("backward", i)]
    run = sweep(chain, actions, options)
    live = problem.simulate(run.nodes).bytes - problem.constant_bytes - _snapshot_bytes(chain, actions, run)
    needs, beside = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for place, action in enumerate(actions):
        if action.kind == "backward":
            i, (before, begin, end) = action.stage, ([0, *run.ends])[place - 1 : place + 2]
            if begin < end:
                needs[i] = int(live[begin:end].max())
            if i < count - 1 and before < len(live):
                node = run.nodes[before]
                written = _bytes(problem, problem.writes[node]) + int(problem.workspace[node])
                beside[i] = int(live[before]) - written
    return needs, beside


def _snapshot_bytes(chain: Chain, actions: Sequence[Action], run: SweptSequence) -> Ints:
    """Bytes, at each position of a run in which every input is a snapshot, of the snapshots that have readers to come."""
    problem = chain.forward.problem
    done = {action.stage: end for action, end in zip(actions, run.ends, strict=True) if action.kind == "backward"}
    entered = {item: i for i, stage in enumerate(chain.stages) for item in stage.inputs}
    begin: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, node in enumerate(run.nodes):
        for item in problem.writes[node]:
            if item in entered:
                begin.setdefault(item, place)
        for item in problem.reads[node]:
            if item in entered and place < done[entered[item]]:
                last[item] = place
    change = np.zeros(len(run.nodes) + 1, dtype=np.int64)
    for item, place in last.items():
        change[begin[item]] += problem.bytes[item]
        change[place + 1] -= problem.bytes[item]
    return np.cumsum(change[:-1])


def _bytes(problem: Problem, items: Iterable[int]) -> int:
    return int(problem.bytes[list(items)].sum())


def _seconds(problem: Problem, nodes: Iterable[int]) -> float:
    return float(problem.cost[list(nodes)].sum())
