"""Schedule files: JSON with a format version, the graph, the steps by stable op names and where they came from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from schedules.atomic import write_text_atomically
from schedules.errors import InvalidScheduleError, ScheduleFileError
from schedules.graph import Graph
from schedules.schedule import Origin, Schedule, Status

FORMAT = "activation checkpointing schedule"
FORMAT_VERSION = 1


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: str
    format_version: int
    fingerprint: str
    budget_bytes: int
    peak_bytes: int
    seconds: float
    solver: str
    status: Status
    bound_seconds: float
    assumption: str
    origin: Origin
    steps: list[str]
    graph: Graph


def write_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write ``schedule`` to ``path``, atomically: a reader finds the old file or the whole new one."""
    document = _Document(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        fingerprint=schedule.fingerprint,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        seconds=schedule.seconds,
        solver=schedule.solver,
        status=schedule.status,
        bound_seconds=schedule.bound_seconds,
        assumption=schedule.assumption,
        origin=schedule.origin,
        steps=[schedule.graph.ops[i].name for i in schedule.steps],
        graph=schedule.graph,
    )
    write_text_atomically(path, document.model_dump_json(exclude_defaults=True) + "\n")


def read_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule file and judge its steps again; see ``Schedule.load``."""
    document = _validated(path, _parsed(path))
    graph = document.graph
    if graph.fingerprint != document.fingerprint:
        raise ScheduleFileError(
            f"{path}: the graph does not match its own fingerprint; the file was edited or damaged: plan again"
        )
    unknown = [name for name in document.steps if name not in graph.by_name]
    if unknown:
        raise ScheduleFileError(f"{path}: the steps run {unknown[0]!r}, which the graph does not have: plan again")
    schedule = Schedule(
        graph=graph,
        steps=tuple(graph.by_name[name] for name in document.steps),
        budget=document.budget_bytes,
        solver=document.solver,
        status=document.status,
        bound_seconds=document.bound_seconds,
        assumption=document.assumption,
        origin=document.origin,
    )
    try:
        peak = schedule.peak_bytes
    except InvalidScheduleError as error:
        raise ScheduleFileError(f"{path}: the steps cannot run ({error}): plan again") from error
    if peak != document.peak_bytes:
        raise ScheduleFileError(
            f"{path}: says that its peak is {document.peak_bytes:,} bytes, but its steps reach {peak:,}: plan again"
        )
    return schedule


def _parsed(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ScheduleFileError(
            f"{path}: not a complete JSON document ({error.msg}, line {error.lineno}, column {error.colno}); "
            "truncated, or not a schedule file: plan again"
        ) from error
    except UnicodeDecodeError as error:
        raise ScheduleFileError(f"{path}: not a text file, so not a schedule file") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ScheduleFileError(f"{path}: a JSON document, but not a schedule file")
    if content.get("format_version") != FORMAT_VERSION:
        raise ScheduleFileError(
            f"{path}: format version {content.get('format_version')!r}; this planner reads version {FORMAT_VERSION}: "
            "plan again with this one, or use the one that wrote it"
        )
    return content


def _validated(path: str | os.PathLike[str], content: dict[str, Any]) -> _Document:
    try:
        return _Document.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ScheduleFileError(f"{path}: {where}: {first['msg']}; the file is damaged: plan again") from error
