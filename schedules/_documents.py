"""TODO: ."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from remat_planner.schedules.errors import ScheduleFileError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.origin import Origin, Status

FORMAT = "activation checkpointing schedule"
REGIONS_FORMAT = "activation checkpointing schedule by regions"
FORMAT_VERSION = 1

Document = TypeVar("Document", bound=BaseModel)


class ScheduleDocument(BaseModel):
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
    companions: list[ScheduleDocument] = []


class RegionScheduleDocument(BaseModel):
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
    schedules: list[ScheduleDocument]


def parsed(path: str | os.PathLike[str]) -> dict[str, Any]:
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


def validated(path: str | os.PathLike[str], content: dict[str, Any], kind: type[Document]) -> Document:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ScheduleFileError(f"{path}: {where}: {first['msg']}; the file is damaged: plan again") from error
