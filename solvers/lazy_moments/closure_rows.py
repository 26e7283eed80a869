"""Rows that raise the bound: an item that is not held at a moment, and needed later, is computed or loaded after it.

They state the closure of the needs after each moment, and cut off no integer solution. Without them the relaxation spreads one
recomputation over many windows.
"""

from __future__ import annotations

from remat_planner.solvers.lazy_moments.columns import Columns
from remat_planner.solvers.lazy_moments.fused_nodes import last_of


def add_closure_rows(columns: Columns) -> None:
    """Add the rows of every moment. One moment alone needs none: its window is all that comes after it."""
    if len(columns.moments) > 1:
        for k in range(len(columns.moments)):
            _add_for_moment(columns, k)


def _add_for_moment(columns: Columns, k: int) -> None:
    problem, program = columns.problem, columns.program
    t = columns.moments[k]
    columns.home.append({})
    once: dict[int, int] = {}  # for each node the column that says whether it is computed after the moment
    for node in sorted(columns.useful[k][1], reverse=True):
        if (last := last_of(columns.following, node, t)) != node:
            once[node] = once[last]
            continue
        once[node] = program.column()
        runs = {again[node]: 1.0 for again in columns.again[k:] if node in again}
        program.at_least({**runs, once[node]: -1.0}, 0.0)
    for i, held in columns.held[k].items():
        terms = {held: 1.0}
        if i in columns.loaded[k]:
            terms[home := program.column()] = 1.0
            columns.home[k][i] = home
            loads = {loaded[i]: 1.0 for loaded in columns.loaded[k:] if i in loaded}
            program.at_least({**loads, home: -1.0}, 0.0)
        if (producer := columns.producer[i]) in once:
            terms[once[producer]] = 1.0
        readers = problem.readers[i]
        if any(reader > t and reader not in columns.early for reader in readers):
            program.at_least(terms, 1.0)
            continue
        for reader in readers:
            if reader in once:
                program.at_least({**terms, once[reader]: -1.0}, 0.0)
