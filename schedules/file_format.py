"""The JSON documents of schedule files: their models, and how a file is parsed and validated.

The format version of a file is the lowest that has all that the file says, so that old planners read what they understand and
refuse the rest. Version 2 adds transfers: the graph's pools with budgets and channels, and the storages that may be copied. A
new optional field that an old planner may ignore needs no new version: fields at their defaults are not written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from remat_planner.schedules.errors import ScheduleFileError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.origin import Origin, Status
from remat_planner.schedules.transfers import PoolName

FORMAT = "activation checkpointing schedule"
REGIONS_FORMAT = "activation checkpointing schedule by regions"
FORMAT_VERSION = 1
TRANSFERS_FORMAT_VERSION = 2
"""Of files with transfers."""

Document = TypeVar("Document", bound=BaseModel)

_TRAINING_OPTIONS = (
    "gradient_dtype",
    "master_weights",
    "shard",
    "zero_stage",
    "optimizer_offload",
    "accumulate",
    "gradient_buckets",
)
"""The options that planner 0.1 wrote as fields of the origin itself."""


def _with_training_state(origin: Any) -> Any:
    """The origin in a file, with the options of an older file gathered into its training state."""
    if not isinstance(origin, dict) or not any(name in origin for name in _TRAINING_OPTIONS):
        return origin
    training = {name: origin[name] for name in _TRAINING_OPTIONS if name in origin}
    return {name: value for name, value in origin.items() if name not in training} | {"training": training}


StoredOrigin = Annotated[Origin, BeforeValidator(_with_training_state)]


class ScheduleDocument(BaseModel):
    """A ``Schedule``; ``steps`` are names of ops and transfers.

    ``peak_bytes`` and ``pool_peak_bytes`` are checked against the simulator when the file is read.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

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
    origin: StoredOrigin
    steps: list[str]
    graph: Graph
    pool_peak_bytes: dict[PoolName, int] = {}
    companions: list[ScheduleDocument] = []


class RegionScheduleDocument(BaseModel):
    """A ``RegionSchedule``; ``regions`` index ``schedules``, so that equal schedules are stored once."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    format: str
    format_version: int
    budget_bytes: int
    peak_bytes: int
    baseline_peak_bytes: int
    constants: dict[str, int]
    update_bytes: int
    origin: StoredOrigin
    calls: dict[str, int]
    form_calls: dict[str, tuple[int, ...]] = {}
    regions: dict[str, int]
    schedules: list[ScheduleDocument]


def parsed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON content of a schedule file of either kind, not yet validated.

    Raises:
        OSError: the file cannot be read.
        ScheduleFileError: it is not a schedule file, or of another format version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ScheduleFileError(
            f"{path}: not a complete JSON document ({error.msg}, line {error.lineno}, column {error.colno}); "
            "truncated, or not a schedule file: plan again"
        ) from error
    except UnicodeDecodeError as error:
        raise ScheduleFileError(f"{path}: not a text file, so not a schedule file") from error
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise ScheduleFileError(f"{path}: no schedule file is nested or has numbers like this one: plan again") from error
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, REGIONS_FORMAT):
        raise ScheduleFileError(f"{path}: a JSON document, but not a schedule file")
    if content.get("format_version") not in (FORMAT_VERSION, TRANSFERS_FORMAT_VERSION):
        raise ScheduleFileError(
            f"{path}: format version {content.get('format_version')!r}; this planner reads versions {FORMAT_VERSION} and "
            f"{TRANSFERS_FORMAT_VERSION}: plan again, or read the file with the planner that wrote it"
        )
    return content


def validated(path: str | os.PathLike[str], content: dict[str, Any], kind: type[Document]) -> Document:
    """``content`` as a document of type ``kind``.

    Raises:
        ScheduleFileError: a field is missing, unknown or of the wrong type.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ScheduleFileError(f"{path}: {where}: {first['msg']}; the file is damaged: plan again") from error
