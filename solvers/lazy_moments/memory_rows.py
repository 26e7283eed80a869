"""Rows of the program that keep memory within the budget: at the moments, and during single recomputations between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from remat_planner.solvers.lazy_moments.columns import Columns


def add_memory_rows(columns: Columns, margins: Mapping[int, int]) -> None:
    """Memory at the first run of each moment; ``margins`` are bytes to leave free at some of them."""
    problem = columns.problem
    states = _random_states(columns)
    for k, t in enumerate(columns.moments):
        resident = {*problem.reads[t], *problem.writes[t]}
        lasting = np.flatnonzero(problem.lasting & (problem.producer < t))
        resident.update(problem.base[lasting].tolist())
        beside = float(problem.workspace[t] + margins.get(t, 0)) / columns.byte_unit
        room = columns.room - beside - sum(columns.bytes[i] for i in resident)
        terms = {c: b for i, c in columns.held[k].items() if i not in resident and (b := columns.bytes[i])}
        columns.program.at_most({**terms, **states[k]}, room)


def _random_states(columns: Columns) -> list[dict[int, float]]:
    """Columns and bytes of the random states in memory at each moment: from a node's first run to its last."""
    states: list[dict[int, float]] = [{} for _ in columns.moments]
    for node in np.flatnonzero(columns.problem.replay).tolist():
        size = float(columns.problem.replay[node]) / columns.byte_unit
        later: int | None = None
        for k in range(len(columns.moments) - 1, -1, -1):
            again = columns.again[k].get(node)
            if columns.moments[k] < node or node in columns.early or (again is None and later is None):
                continue
            column = columns.program.column()
            for run in (again, later):
                if run is not None:
                    columns.program.at_least({column: 1.0, run: -1.0}, 0.0)
            states[k][column] = size
            later = column
    return states


def add_inside_rows(columns: Columns, pairs: Iterable[tuple[int, int]]) -> None:
    """Memory during recomputations: inputs and outputs of the node, and items held from one moment to the next."""
    problem = columns.problem
    rows: dict[int, set[int]] = {}
    for node, recomputed in pairs:
        if 0 <= (k := columns.window_of(node)) < len(columns.moments) - 1 and recomputed in columns.again[k]:
            rows.setdefault(k, set()).add(recomputed)
    for k, nodes in rows.items():
        lasting = set(problem.base[problem.lasting & (problem.producer <= columns.moments[k])].tolist())
        through = _held_through(columns, k)
        for node in sorted(nodes):
            resident = {*problem.reads[node], *problem.writes[node]}
            needed = sum(columns.bytes[i] for i in resident) + float(problem.workspace[node]) / columns.byte_unit
            fixed = sum(columns.bytes[i] for i in lasting - resident)
            terms = {column: size for i, column in through.items() if i not in resident and (size := columns.bytes[i])}
            columns.program.at_most({**terms, columns.again[k][node]: needed}, columns.room - fixed)


def _held_through(columns: Columns, k: int) -> dict[int, int]:
    """Columns that are 1 where an item stays in memory from moment k to moment k + 1."""
    problem, program = columns.problem, columns.program
    inputs = set(problem.reads[columns.moments[k + 1]])
    lasting = set(problem.base[problem.lasting].tolist())
    through = {}
    for i, held in columns.held[k].items():
        after = columns.held[k + 1].get(i)
        if not columns.bytes[i] or i in lasting or (after is None and i not in inputs):
            continue
        column = through[i] = program.column()
        terms = {column: 1.0, held: -1.0}
        if (again := columns.again[k].get(columns.producer[i])) is not None:
            terms[again] = 1.0
        if after is None or i in inputs:
            program.at_least(terms, 0.0)
        else:
            program.at_least({**terms, after: -1.0}, -1.0)
    return through
