"""Cost profiles: the measurements of one device as a JSON file, to plan with on another machine."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from remat_planner.schedules import Channel, write_text_atomically
from remat_planner.tracer.costs.conditions import Conditions
from remat_planner.tracer.costs.errors import ProfileError, ProfileWarning
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.measure import Measured
from remat_planner.tracer.costs.roofline import bytes_moved, operand_dtype
from remat_planner.tracer.operators import OpCall

FORMAT: Final = "operator cost profile"
FORMAT_VERSION: Final = 1

Count = Annotated[int, Field(ge=0)]


class ProfiledCall(BaseModel):
    """One measured call: seconds, workspace bytes, bytes of each storage that its results allocate.

    Estimates for other calls need its FLOPs, bytes moved, and the dtype of its arithmetic.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[FiniteFloat, Field(ge=0)]
    workspace: Count
    allocates: tuple[Count, ...]
    flops: Count
    bytes_moved: Count
    dtype: str


class ProfiledLink(BaseModel):
    """The measured link between a GPU and its host, whose processor is ``host``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    outgoing: Channel
    incoming: Channel


class Profile(BaseModel):
    """The measurements of one device.

    Attributes:
        device: name of the GPU or processor.
        torch: version of PyTorch.
        threads: number of CPU threads; 0 for a GPU.
        settings: PyTorch's settings, by name.
        calls: the measured calls, by ``OpCall.key``.
        link: between the GPU and its host; None for a CPU, and in files of earlier versions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["operator cost profile"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    device: str
    torch: str
    threads: Count
    settings: dict[str, str]
    calls: dict[str, ProfiledCall]
    link: ProfiledLink | None = None


def profile_of(
    measured: Mapping[str, tuple[OpCall, Measured]], conditions: Conditions, link: ProfiledLink | None = None
) -> Profile:
    """The profile of calls that were measured under the same conditions, given by the keys that later look them up."""
    return Profile(
        device=conditions.device,
        torch=conditions.torch,
        threads=conditions.threads,
        settings=dict(conditions.settings),
        calls={
            key: ProfiledCall(
                seconds=cost.seconds,
                workspace=cost.workspace,
                allocates=cost.allocates,
                flops=flops(call),
                bytes_moved=bytes_moved(call),
                dtype=dtype_name(operand_dtype(call)),
            )
            for key, (call, cost) in measured.items()
        },
        link=link,
    )


def write_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write ``profile`` to ``path``, atomically: a reader finds the old file or the whole new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_text_atomically(path, profile.model_dump_json(indent=1, exclude_none=True) + "\n")


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile.

    Raises:
        ProfileError: the file does not exist, is truncated, is no profile, or has another format version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read as a cost profile ({error})", path=str(path)) from error
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(
            f"{path}: not a complete JSON document ({error.msg}, line {error.lineno}): truncated, or no cost profile. "
            "Measure it again",
            path=str(path),
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ProfileError(f"{path}: a JSON document, but not a cost profile", path=str(path))
    if content.get("format_version") != FORMAT_VERSION:
        raise ProfileError(
            f"{path}: format version {content.get('format_version')!r}; this planner reads version {FORMAT_VERSION}: "
            "measure it again with this one",
            path=str(path),
        )
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ProfileError(f"{path}: {where}: {first['msg']}; the file is damaged: measure it again", path=str(path)) from error


def warn_of_differences(profile: Profile, here: Conditions, path: str | os.PathLike[str]) -> None:
    """Warn of each difference between the conditions of the profile and those of this process."""
    now = {"device": here.device, "torch": here.torch, "threads": here.threads, **dict(here.settings)}
    then = {"device": profile.device, "torch": profile.torch, "threads": profile.threads, **profile.settings}
    differing = [f"{name} {then[name]!r} there, {now[name]!r} here" for name in then if name in now and then[name] != now[name]]
    if differing:
        warnings.warn(
            f"{path}: measured under other conditions than the model's here: {'; '.join(differing)}. "
            f"The plan holds for {profile.device}",
            ProfileWarning,
            stacklevel=2,
        )


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")
