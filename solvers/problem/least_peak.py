"""The memory that no schedule can do without: what an op needs while it runs, and what stays."""

from __future__ import annotations

import numpy as np

from remat_planner.schedules import Graph
from remat_planner.solvers.problem.reduced_graph import Problem


def least_peak(graph: Graph) -> tuple[int, int | None]:
    """Bytes below which no schedule of any order can stay, and the op that sets them (None: what stays in the end does).

    While an op runs, its inputs, outputs and workspace are there; so are the results computed by its ancestors the first time,
    because those live to the end. At the end all results are there.
    """
    storage_of = [value.storage for value in graph.values]
    constant = [storage.constant for storage in graph.storages]
    results = set(graph.results)
    # A storage that holds a result is kept from its first writer on; everything that depends on that writer runs beside it.
    lasting = [{storage_of[v] for v in op.writes if v in results and not constant[storage_of[v]]} for op in graph.ops]
    before: list[frozenset[int]] = []
    least, setter = 0, None
    for i, op in enumerate(graph.ops):
        upstream: set[int] = set()
        for value in op.reads:
            producer = graph.producer[value]
            if producer is not None:
                upstream |= before[producer]
        own = {storage_of[v] for v in (*op.reads, *op.writes) if not constant[storage_of[v]]}
        needed = sum(graph.storages[s].bytes for s in own | upstream) + op.workspace
        if needed > least:
            least, setter = needed, i
        before.append(frozenset(upstream | lasting[i]))
    kept = sum(graph.storages[s].bytes for s in set().union(*lasting)) if lasting else 0
    if kept > least:
        least, setter = kept, None
    return least + graph.constant_bytes, setter


def least_peak_forward(problem: Problem) -> tuple[int, int]:
    """Bytes below which no schedule can stay that first runs the ops in order and recomputes forward ops only, and the node.

    Beside what a node needs while it first runs there are, by then, all results and whatever ran before it, cannot run again
    and is still to be read: pinned forward ops' values, and gradients that wait, as those of a U-Net's long skips do.
    """
    n = problem.n
    once = problem.pinned | ~problem.forward
    lasting_from = np.full(problem.m, n, dtype=np.int64)
    for item in np.flatnonzero(problem.lasting).tolist():
        if not problem.auxiliary[problem.producer[item]]:
            root = problem.base[item]
            lasting_from[root] = min(lasting_from[root], problem.producer[item])
    waiting = np.zeros(n + 1, dtype=np.int64)
    there = [{*problem.reads[node], *problem.writes[node]} for node in range(n)]
    own = np.array([problem.bytes[list(items)].sum() for items in there]) + problem.workspace
    for item in np.flatnonzero(problem.bytes).tolist():
        made = int(problem.producer[item])
        spans = [(int(lasting_from[item]), n)]
        if once[made] and not problem.auxiliary[made]:
            readers = [reader for reader in problem.readers[item] if not problem.auxiliary[reader]]
            spans.append((made, max(readers, default=made)))
        # Where it is there in any case; a node that reads or makes it has it among its own already.
        held = np.zeros(n + 1, dtype=np.bool_)
        for begin, end in spans:
            held[begin + 1 : end] = True
        held[[made, *problem.readers[item]]] = False
        waiting[held] += problem.bytes[item]
    levels = np.where(problem.auxiliary, 0, own + waiting[:n])
    node = int(levels.argmax())
    return int(levels[node]) + problem.constant_bytes, node
