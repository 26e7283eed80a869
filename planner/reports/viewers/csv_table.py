"""A schedule as a table: a line for each execution of an op and each transfer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import accumulate

from remat_planner.planner.reports.operator_names import action_names
from remat_planner.planner.reports.timeline import MemoryCurve

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet computes."""
COLUMNS = ("region", "step", "op", "operator", "phase", "recomputed", "module", "line", "start_seconds", "seconds", "bytes")
"""Of every table; after them comes a column for the bytes of each kind of memory that is in it."""


def csv_table(curves: Mapping[str, MemoryCurve]) -> str:
    """The executions of ``curves`` with the bytes that are allocated while each runs."""
    text = io.StringIO()
    by_kind = {title: curve.planned.kinds for title, curve in curves.items()}
    kinds = [kind for kind in next(iter(by_kind.values()), {}) if any(live[kind].any() for live in by_kind.values())]
    table = csv.writer(text)
    table.writerow((*COLUMNS, *(f"{kind.replace(' ', '_')}_bytes" for kind in kinds)))
    for title, curve in curves.items():
        executions = curve.planned
        starts = accumulate(executions.seconds.tolist(), initial=0.0)
        for step, (i, start) in enumerate(zip(executions.ops, starts, strict=False)):
            action = executions.graph.actions[i]
            names = action_names(action)
            region, name, operator, module, line = map(_text, (title, action.name, names.operator, names.module, names.line))
            what = (region, step, name, operator, names.phase, int(executions.again[step]), module, line)
            numbers = (start, float(executions.seconds[step]), int(executions.bytes[step]))
            table.writerow((*what, *numbers, *(int(by_kind[title][kind][step]) for kind in kinds)))
    return text.getvalue()


def _text(name: str) -> str:
    """``name``, which may come from anywhere, as a cell that no spreadsheet computes."""
    return f"'{name}" if name.startswith(_FORMULA) else name
