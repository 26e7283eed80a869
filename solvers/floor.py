"""The memory that no schedule can do without: what an op needs while it runs, and what stays."""

from __future__ import annotations

from schedules import Graph


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
