"""A schedule as a trace: a process for the plan and one for the step without recomputation, with ops, transfers and its memory.

The format is Chrome's JSON trace, which ui.perfetto.dev and chrome://tracing open:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remat_planner.planner.reports.operator_names import action_names
from remat_planner.planner.reports.timeline import Executions, MemoryCurve
from remat_planner.schedules import Transfer

_MICROSECONDS = 1e6
_COMPUTE = "compute"


def perfetto_trace(curves: Mapping[str, MemoryCurve]) -> str:
    """The trace of ``curves`` as JSON. An execution takes its seconds, or a microsecond where none in the step takes time."""
    events: list[dict[str, Any]] = []
    numbers = count(1)
    for title, curve in curves.items():
        for name, executions in (("this plan", curve.planned), ("without recomputation", curve.unplanned)):
            process = next(numbers)
            events.append(_event("M", "process_name", process, 0.0, {"name": f"{title}: {name}" if title else name}))
            slices = [_slice(executions, step, *times) for step, times in enumerate(_times(executions))]
            threads = {thread: number for number, thread in enumerate(sorted({thread for thread, _ in slices}), 1)}
            for thread, number in threads.items():
                events.append(_event("M", "thread_name", process, 0.0, {"name": thread}) | {"tid": number})
            events += [event | {"pid": process, "tid": threads[thread]} for thread, event in slices]
            events += _counters(executions, curve.budget, process)
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"))


def _slice(executions: Executions, step: int, start: float, duration: float) -> tuple[str, dict[str, Any]]:
    """One execution, with the thread that it is shown in: that of the ops, or that of a link's direction."""
    action = executions.graph.actions[executions.ops[step]]
    names, again = action_names(action), executions.again[step]
    thread = _COMPUTE
    if isinstance(action, Transfer) and action.kind != "release":
        thread = f"{action.kind}s, {action.pool.name}"
    name = names.operator + (" (recomputed)" if again else "")
    event = _event("X", name, 0, start, {"op": action.name, "module": names.module, "line": names.line})
    return thread, event | {"dur": duration, "cat": "recomputation" if again else names.phase}


def _counters(executions: Executions, budget: int, process: int) -> Iterator[dict[str, Any]]:
    """Bytes: all that is allocated with the budget, and each kind of memory; an event wherever they change."""
    constants = executions.graph.constant_bytes
    kinds = {kind: live for kind, live in executions.kinds.items() if live.any()}
    before: dict[str, int] = {}
    for step, start in enumerate(_issued(executions)):
        now = {"resident throughout": constants} | {kind: int(live[step]) for kind, live in kinds.items()}
        if now != before:
            total = {"allocated": int(executions.bytes[step]), "budget": budget}
            yield _event("C", "memory", process, start, total)
            yield _event("C", "memory by kind", process, start, now)
        before = now


def _event(kind: str, name: str, process: int, start: float, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": kind, "name": name, "pid": process, "tid": 1, "ts": start, "args": arguments}


def _times(executions: Executions) -> list[tuple[float, float]]:
    """Start and duration of each execution in microseconds."""
    if executions.traffic is not None:
        timing = executions.traffic.timing
        begin, end = timing.begin * _MICROSECONDS, timing.end * _MICROSECONDS
        return list(zip(begin.tolist(), (end - begin).tolist(), strict=True))
    return list(zip(_issued(executions), _durations(executions).tolist(), strict=True))


def _issued(executions: Executions) -> list[float]:
    """The microsecond at which the compute queue comes to each execution: then it allocates."""
    durations = _durations(executions)
    starts: list[float] = (np.cumsum(durations) - durations).tolist()
    return starts


def _durations(executions: Executions) -> NDArray[np.float64]:
    return executions.seconds * _MICROSECONDS if executions.seconds.any() else np.ones(len(executions.ops))
