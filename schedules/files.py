"""Schedule files: JSON with a format version, the graph, the steps by stable op names and where they came from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schedules.atomic import write_text_atomically
from schedules.errors import InvalidScheduleError, ScheduleFileError
from schedules.graph import Graph
from schedules.regions import RegionSchedule
from schedules.schedule import Origin, Schedule, Status

FORMAT = "activation checkpointing schedule"
REGIONS_FORMAT = "activation checkpointing schedule by regions"
FORMAT_VERSION = 1

Document = TypeVar("Document", bound=BaseModel)


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
    companions: list[_Document] = []


class _RegionsDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: str
    format_version: int
    budget_bytes: int
    peak_bytes: int
    baseline_peak_bytes: int
    constants: dict[str, int]
    update_bytes: int
    origin: Origin
    calls: dict[str, int]
    regions: dict[str, int]  # the number of each one's schedule: equal ones are there once
    schedules: list[_Document]


def write_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Write ``schedule`` to ``path``, atomically: a reader finds the old file or the whole new one."""
    write_text_atomically(path, _document_of(schedule).model_dump_json(exclude_defaults=True) + "\n")


def write_region_schedule(schedule: RegionSchedule, path: str | os.PathLike[str]) -> None:
    """Write ``schedule`` to ``path``, atomically; a schedule that several regions have is written once."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    distinct: list[Schedule] = []
    regions: dict[str, int] = {}
    for name, region in schedule.regions.items():
        key = (region.fingerprint, region.steps)
        if key not in numbers:
            numbers[key] = len(distinct)
            distinct.append(region)
        regions[name] = numbers[key]
    document = _RegionsDocument(
        format=REGIONS_FORMAT,
        format_version=FORMAT_VERSION,
        budget_bytes=schedule.budget,
        peak_bytes=schedule.peak_bytes,
        baseline_peak_bytes=schedule.baseline_peak_bytes,
        constants=dict(schedule.constants),
        update_bytes=schedule.update,
        origin=schedule.origin,
        calls=dict(schedule.calls),
        regions=regions,
        schedules=[_document_of(region) for region in distinct],
    )
    write_text_atomically(path, document.model_dump_json(exclude_defaults=True) + "\n")


def load_schedule(path: str | os.PathLike[str]) -> Schedule | RegionSchedule:
    """Read a schedule file of either kind.

    Raises:
        OSError: the file cannot be read.
        ScheduleFileError: it is damaged, or no schedule file.
    """
    content = _parsed(path)
    return (
        _regions(path, content)
        if content["format"] == REGIONS_FORMAT
        else _schedule(path, _validated(path, content, _Document))
    )


def read_region_schedule(path: str | os.PathLike[str]) -> RegionSchedule:
    """Read a file of a schedule by regions; see ``RegionSchedule.load``."""
    found = load_schedule(path)
    if isinstance(found, Schedule):
        raise ScheduleFileError(f"{path}: the schedule of a whole model, not one by regions: read it with Schedule.load")
    return found


def read_schedule(path: str | os.PathLike[str]) -> Schedule:
    """Read a schedule file and judge its steps again; see ``Schedule.load``."""
    found = load_schedule(path)
    if isinstance(found, RegionSchedule):
        raise ScheduleFileError(f"{path}: a schedule by regions: read it with RegionSchedule.load")
    return found


def _regions(path: str | os.PathLike[str], content: dict[str, Any]) -> RegionSchedule:
    document = _validated(path, content, _RegionsDocument)
    schedules = [_schedule(path, schedule) for schedule in document.schedules]
    wrong = [name for name, number in document.regions.items() if not 0 <= number < len(schedules)]
    if wrong or document.regions.keys() != document.calls.keys():
        raise ScheduleFileError(f"{path}: regions without a schedule or a number of calls; the file is damaged: plan again")
    return RegionSchedule(
        regions={name: schedules[number] for name, number in document.regions.items()},
        calls=document.calls,
        budget=document.budget_bytes,
        peak_bytes=document.peak_bytes,
        baseline_peak_bytes=document.baseline_peak_bytes,
        constants=document.constants,
        update=document.update_bytes,
        origin=document.origin,
    )


def _document_of(schedule: Schedule) -> _Document:
    return _Document(
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
        companions=[_document_of(companion) for companion in schedule.companions],
    )


def _schedule(path: str | os.PathLike[str], document: _Document) -> Schedule:
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
        companions=tuple(_schedule(path, companion) for companion in document.companions),
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
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, REGIONS_FORMAT):
        raise ScheduleFileError(f"{path}: a JSON document, but not a schedule file")
    if content.get("format_version") != FORMAT_VERSION:
        raise ScheduleFileError(
            f"{path}: format version {content.get('format_version')!r}; this planner reads version {FORMAT_VERSION}: "
            "plan again with this one, or use the one that wrote it"
        )
    return content


def _validated(path: str | os.PathLike[str], content: dict[str, Any], kind: type[Document]) -> Document:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ScheduleFileError(f"{path}: {where}: {first['msg']}; the file is damaged: plan again") from error
