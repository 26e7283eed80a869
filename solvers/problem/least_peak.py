"""Lower bounds on the peak: memory that no schedule can avoid, whatever it recomputes."""

from __future__ import annotations

import numpy as np

from remat_planner.schedules import Graph
from remat_planner.solvers.problem.reduced_graph import Problem


def least_peak(graph: Graph) -> tuple[int, int | None]:
    """Bytes that every schedule of any order needs, and the op that sets them (None: the results at the end of the step do).

    While an op runs, its inputs, outputs and workspace are resident, and so are the results that its ancestors computed at
    their first run, because those live to the end.
    """
    storage_of = [value.storage for value in graph.values]
    constant = [storage.constant for storage in graph.storages]
    results = set(graph.results)
    # A storage that holds a result lives from its first writer to the end, beside everything that depends on that writer.
    lasting = [{storage_of[v] for v in op.writes if v in results and not constant[storage_of[v]]} for op in graph.ops]
    before: list[frozenset[int]] = []  # for each op the lasting storages of its ancestors and itself
    least, setter = 0, None
    for i, op in enumerate(graph.ops):
        upstream: set[int] = set()
        for value in op.reads:
            producer = graph.producer[value]
            if producer is not None:
                upstream |= before[producer]
        touched = {storage_of[v] for v in (*op.reads, *op.writes) if not constant[storage_of[v]]}
        needed = sum(graph.storages[s].bytes for s in touched | upstream) + op.workspace
        if needed > least:
            least, setter = needed, i
        before.append(frozenset(upstream | lasting[i]))
    at_end = sum(graph.storages[s].bytes for s in set().union(*lasting)) if lasting else 0
    if at_end > least:
        least, setter = at_end, None
    return least + graph.constant_bytes, setter


def least_peak_forward(problem: Problem) -> tuple[int, int]:
    """Bytes that every schedule needs which keeps the order of first runs and recomputes forward ops only, and the node.

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
    waiting = np.zeros(n + 1, dtype=np.int64)  # bytes that must be resident during each node beside those that it touches
    touched = [{*problem.reads[node], *problem.writes[node]} for node in range(n)]
    needed = np.array([problem.bytes[list(items)].sum() for items in touched]) + problem.workspace
    for item in np.flatnonzero(problem.bytes).tolist():
        producer = int(problem.producer[item])
        spans = [(int(lasting_from[item]), n)]
        if runs_once[producer] and not problem.auxiliary[producer]:
            readers = [reader for reader in problem.readers[item] if not problem.auxiliary[reader]]
            spans.append((producer, max(readers, default=producer)))
        resident = np.zeros(n + 1, dtype=np.bool_)
        for begin, end in spans:
            resident[begin + 1 : end] = True
        resident[[producer, *problem.readers[item]]] = False  # counted in ``needed``
        waiting[resident] += problem.bytes[item]
    levels = np.where(problem.auxiliary, 0, needed + waiting[:n])
    node = int(levels.argmax())
    return int(levels[node]) + problem.constant_bytes, node
