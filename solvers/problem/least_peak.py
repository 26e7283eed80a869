"""Lower bounds on the peak: memory that no schedule can avoid, whatever it recomputes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from remat_planner.schedules import Graph
from remat_planner.solvers.problem.reduced_graph import Problem


class LeastPeak(NamedTuple):
    """Memory that no schedule of some class can avoid.

    Attributes:
        bytes: constants, what must be resident at once, and the workspace of what runs then.
        setter: what runs then: an op or, where a function says so, a node; None for the end of the step.
        storages: what must be resident at once, as indices into ``Graph.storages``, constants left out.
    """

    bytes: int
    setter: int | None
    storages: frozenset[int]


def irreducible(sizes: Mapping[int, int], room: int) -> tuple[int, ...]:
    """Of what exceeds ``room`` bytes together, the largest part of which nothing can be left out; the largest first.

    Empty where there is no room at all. minimalloc (Moffitt 2023, "MiniMalloc: a lightweight memory allocator for
    hardware-accelerated machine learning") explains infeasibility by such sets.
    """
    total = sum(sizes.values())
    kept = []
    for key in sorted(sizes, key=lambda key: (sizes[key], key)):
        if total - sizes[key] > room:
            total -= sizes[key]
        else:
            kept.append(key)
    return tuple(reversed(kept))


def least_peak(graph: Graph) -> LeastPeak:
    """What every schedule of any order needs, set by an op or by the results at the end of the step.

    While an op runs, its inputs, outputs and workspace are resident, and so are the results that its ancestors computed at
    their first run, because those live to the end.
    """
    storage_of = [value.storage for value in graph.values]
    constant = [storage.constant for storage in graph.storages]
    results = set(graph.results)
    # A storage that holds a result lives from its first writer to the end, beside everything that depends on that writer.
    lasting = [{storage_of[v] for v in op.writes if v in results and not constant[storage_of[v]]} for op in graph.ops]
    before: list[frozenset[int]] = []  # for each op the lasting storages of its ancestors and itself
    least, setter, resident = 0, None, frozenset[int]()
    for i, op in enumerate(graph.ops):
        upstream: set[int] = set()
        for value in op.reads:
            producer = graph.producer[value]
            if producer is not None:
                upstream |= before[producer]
        touched = {storage_of[v] for v in (*op.reads, *op.writes) if not constant[storage_of[v]]}
        needed = sum(graph.storages[s].bytes for s in touched | upstream) + op.workspace
        if needed > least:
            least, setter, resident = needed, i, frozenset(touched | upstream)
        before.append(frozenset(upstream | lasting[i]))
    at_end = frozenset[int]().union(*lasting)
    at_end_bytes = sum(graph.storages[s].bytes for s in at_end)
    if at_end_bytes > least:
        least, setter, resident = at_end_bytes, None, at_end
    return LeastPeak(least + graph.constant_bytes, setter, resident)


def least_peak_forward(problem: Problem) -> LeastPeak:
    """What every schedule needs that keeps the order of first runs and recomputes forward ops only; its setter is a node.

    Beside the inputs, outputs and workspace of a node at its first run, all earlier results are resident, and so are values
    that cannot be recomputed and have readers to come: those of pinned forward ops, and gradients, such as those of a U-Net's
    long skips.
    """
    n = problem.n
    runs_once = problem.pinned | ~problem.forward
    lasting_from = np.full(problem.m, n, dtype=np.int64)
    for item in np.flatnonzero(problem.lasting).tolist():
        if not problem.auxiliary[problem.producer[item]]:
            root = problem.base[item]
            lasting_from[root] = min(lasting_from[root], problem.producer[item])
    spans_of: dict[int, list[tuple[int, int]]] = {}
    waiting = np.zeros(n + 1, dtype=np.int64)  # bytes that must be resident during each node beside those that it touches
    touched = [{*problem.reads[node], *problem.writes[node]} for node in range(n)]
    needed = np.array([problem.bytes[list(items)].sum() for items in touched]) + problem.workspace
    for item in np.flatnonzero(problem.bytes).tolist():
        producer = int(problem.producer[item])
        spans = [(int(lasting_from[item]), n)]
        if runs_once[producer] and not problem.auxiliary[producer]:
            readers = [reader for reader in problem.readers[item] if not problem.auxiliary[reader]]
            spans.append((producer, max(readers, default=producer)))
        spans_of[item] = spans
        resident = np.zeros(n + 1, dtype=np.bool_)
        for begin, end in spans:
            resident[begin + 1 : end] = True
        resident[[producer, *problem.readers[item]]] = False  # counted in ``needed``
        waiting[resident] += problem.bytes[item]
    levels = np.where(problem.auxiliary, 0, needed + waiting[:n])
    node = int(levels.argmax())
    held = {item for item, spans in spans_of.items() if any(begin < node < end for begin, end in spans)}
    storages = frozenset(s for item in touched[node] | held for s in problem.storages[item])
    return LeastPeak(int(levels[node]) + problem.constant_bytes, node, storages)
