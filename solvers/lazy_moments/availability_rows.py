"""Rows of the program that make it run: every node finds its inputs, held items come from somewhere, pinned nodes run once."""

from __future__ import annotations

from remat_planner.solvers.lazy_moments.columns import Columns


def add_availability_rows(columns: Columns) -> None:
    """Add them for the whole step."""
    moments, n = columns.moments, columns.problem.n
    _add_first_runs(columns, 0, -1, moments[0] if moments else n - 1)
    for k, t in enumerate(moments):
        _add_first_runs(columns, k, t, moments[k + 1] if k + 1 < len(moments) else n - 1)
        _add_recomputations(columns, k)
        _add_held(columns, k)
    for node, early in columns.early.items():
        if columns.problem.pinned[node]:
            runs = {again[node]: 1.0 for again in columns.again if node in again}
            columns.program.at_most({early: 1.0, **runs}, 1.0)


def _add_first_runs(columns: Columns, k: int, start: int, end: int) -> None:
    """Nodes first run in (start, end] find their inputs. ``k`` is the moment before them (any at the start of the step)."""
    program = columns.program
    demanded: set[int] = set()
    for node in range(start + 1, end + 1):
        early = columns.early.get(node)
        for i in columns.problem.reads[node]:
            producer = columns.producer[i]
            if producer > start:
                if early is not None and (below := columns.early.get(producer)) is not None:
                    program.at_least({below: 1.0, early: -1.0}, 0.0)
            elif early is not None:
                program.at_least({**columns.available(k, i), early: -1.0}, 0.0)
            elif i not in demanded:
                demanded.add(i)
                program.at_least(columns.available(k, i), 1.0)


def _add_recomputations(columns: Columns, k: int) -> None:
    """Nodes recomputed in window k find their inputs."""
    for node, column in columns.again[k].items():
        for i in columns.problem.reads[node]:
            if column not in (terms := columns.available(k, i)):
                columns.program.at_least({**terms, column: -1.0}, 0.0)


def _add_held(columns: Columns, k: int) -> None:
    """An item held at moment k was available in the window before it, and an in-place result with its base."""
    problem, program = columns.problem, columns.program
    before = columns.moments[k - 1] if k else -1
    for i, column in columns.held[k].items():
        producer = columns.producer[i]
        if producer <= before:
            program.at_least({**columns.available(k - 1, i), column: -1.0}, 0.0)
        elif (early := columns.early.get(producer)) is not None:
            program.at_least({early: 1.0, column: -1.0}, 0.0)
        if (root := int(problem.base[i])) != i and root in columns.held[k]:
            program.at_least({columns.held[k][root]: 1.0, column: -1.0}, 0.0)
