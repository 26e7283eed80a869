"""A schedule as a trace: a process for the plan and one for the step without recomputation, each with its ops and its memory.

The format is Chrome's JSON trace, which ui.perfetto.dev and chrome://tracing open:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import accumulate, count
from typing import Any

from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.planner.reports.peak_memory import memory_over_step
from remat_planner.planner.reports.timeline import Executions, MemoryCurve

_MICROSECONDS = 1e6
_THREAD = 1


def perfetto_trace(curves: Mapping[str, MemoryCurve]) -> str:
    """The trace of ``curves`` as JSON. An execution takes its seconds, or a microsecond where none in the step takes time."""
    events: list[dict[str, Any]] = []
    numbers = count(1)
    for title, curve in curves.items():
        for name, executions in (("this plan", curve.planned), ("without recomputation", curve.unplanned)):
            process = next(numbers)
            label = {"process_name": f"{title}: {name}" if title else name, "thread_name": "compute"}
            events += [_event("M", kind, process, 0.0, {"name": text}) for kind, text in label.items()]
            events += _ops(curve, executions, process)
            events += _counters(curve, executions, process)
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"))


def _ops(curve: MemoryCurve, executions: Executions, process: int) -> Iterator[dict[str, Any]]:
    columns = zip(executions.ops, _starts(executions), _durations(executions), executions.again, strict=True)
    for i, start, duration, again in columns:
        op = curve.graph.ops[i]
        category = "recomputation" if again else op.phase
        name = short_operator(op.kind) + (" (recomputed)" if again else "")
        event = _event("X", name, process, start, {"op": op.name, "module": op.module, "line": op.source})
        yield event | {"dur": duration, "cat": category}


def _counters(curve: MemoryCurve, executions: Executions, process: int) -> Iterator[dict[str, Any]]:
    """Bytes: all that is allocated with the budget, and each kind of memory; an event wherever they change."""
    constants = curve.graph.constant_bytes
    kinds = {kind: live for kind, live in memory_over_step(curve.graph, executions.ops).items() if live.any()}
    before: dict[str, int] = {}
    for step, start in enumerate(_starts(executions)):
        now = {"resident throughout": constants} | {kind: int(live[step]) for kind, live in kinds.items()}
        if now != before:
            total = {"allocated": int(executions.bytes[step]), "budget": curve.budget}
            yield _event("C", "memory", process, start, total)
            yield _event("C", "memory by kind", process, start, now)
        before = now


def _event(kind: str, name: str, process: int, start: float, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": kind, "name": name, "pid": process, "tid": _THREAD, "ts": start, "args": arguments}


def _durations(executions: Executions) -> list[float]:
    timed = bool(executions.seconds.any())
    return (executions.seconds * _MICROSECONDS).tolist() if timed else [1.0] * len(executions.ops)


def _starts(executions: Executions) -> list[float]:
    return list(accumulate(_durations(executions)[:-1], initial=0.0)) if len(executions.ops) else []
