"""Cost profiles: what was measured on one device, as a JSON file to plan with on another machine.

A call that the profile lacks is estimated by a roofline whose rates are those that the profile's own calls reached.
"""

from __future__ import annotations

import json
import os
import statistics
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from remat_planner.schedules import write_text_atomically
from remat_planner.tracer.costs.errors import ProfileError, ProfileWarning
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.measure import Conditions, Measured
from remat_planner.tracer.costs.op_call import OpCall
from remat_planner.tracer.costs.roofline import bytes_moved, operand_dtype

FORMAT: Final = "operator cost profile"
FORMAT_VERSION: Final = 1
_SHOWN = 5  # calls that a message names before it counts the rest

Count = Annotated[int, Field(ge=0)]


class ProfiledCall(BaseModel):
    """One measured call: seconds, bytes of workspace and of the storages that its results make; and what an estimate of others
    needs (FLOPs, bytes moved, dtype of the arithmetic)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[FiniteFloat, Field(ge=0)]
    workspace: Count
    allocates: tuple[Count, ...]
    flops: Count
    bytes_moved: Count
    dtype: str


class Profile(BaseModel):
    """What a device was measured to take.

    Attributes:
        device: name of the GPU or processor.
        torch: version of PyTorch.
        threads: of the CPU; 0 for a GPU.
        settings: PyTorch's own.
        calls: by ``OpCall.key``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["operator cost profile"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    device: str
    torch: str
    threads: Count
    settings: dict[str, str]
    calls: dict[str, ProfiledCall]


def profile_of(measured: Mapping[str, tuple[OpCall, Measured]], conditions: Conditions) -> Profile:
    """The profile of measured calls, all under the same conditions, by the key that they will be looked up by."""
    return Profile(
        device=conditions.device,
        torch=conditions.torch,
        threads=conditions.threads,
        settings=dict(conditions.settings),
        calls={
            key: ProfiledCall(
                seconds=found.seconds,
                workspace=found.workspace,
                allocates=found.allocates,
                flops=flops(call),
                bytes_moved=bytes_moved(call),
                dtype=_dtype_name(operand_dtype(call)),
            )
            for key, (call, found) in measured.items()
        },
    )


def write_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write ``profile`` to ``path``, atomically: a reader finds the old file or the whole new one.

    Raises:
        OSError: the file cannot be written.
    """
    write_text_atomically(path, profile.model_dump_json(indent=1) + "\n")


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile.

    Raises:
        ProfileError: there is no such file, or it is truncated, no profile, or of another format version.
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
    """Warn with what differs between the profile's conditions and these."""
    found = {"device": here.device, "torch": here.torch, "threads": here.threads, **dict(here.settings)}
    measured = {"device": profile.device, "torch": profile.torch, "threads": profile.threads, **profile.settings}
    differing = [
        f"{name} {measured[name]!r} there, {found[name]!r} here"
        for name in measured
        if name in found and measured[name] != found[name]
    ]
    if differing:
        warnings.warn(
            f"{path}: measured under other conditions than the model is under here: {'; '.join(differing)}. "
            f"The plan holds for {profile.device}",
            ProfileWarning,
            stacklevel=2,
        )


def profiled_calls(
    profile: Profile, calls: Iterable[OpCall], path: str | os.PathLike[str]
) -> dict[str, tuple[float, int, tuple[int, ...]]]:
    """Seconds, workspace and storage bytes of each call that is no view, by key; with a warning, estimates of those not in the
    profile.

    Raises:
        ProfileError: calls are missing, and the profile has none from which they could be estimated.
    """
    distinct = {call.key: call for call in calls if not call.is_view}
    known = {key: profile.calls[key] for key in distinct if key in profile.calls}
    costs = {key: (entry.seconds, entry.workspace, entry.allocates) for key, entry in known.items()}
    absent = [key for key in distinct if key not in known]
    if not absent:
        return costs
    rates = _Rates(profile.calls.values())
    hopeless = [key for key in absent if not rates.cover(distinct[key])]
    if hopeless:
        raise ProfileError(
            f"{path}: lacks {len(absent)} of {len(distinct)} operator calls of this model, and has none of a kind from which "
            f"these could be estimated: {_some(hopeless)}. Measure a profile of this model, or of one like it",
            path=str(path),
            missing=tuple(hopeless),
        )
    costs |= {key: (rates.seconds(distinct[key]), 0, distinct[key].allocates) for key in absent}
    share = sum(costs[key][0] for key in absent) / max(sum(seconds for seconds, *_ in costs.values()), 1e-12)
    warnings.warn(
        f"{path}: lacks {len(absent)} of {len(distinct)} operator calls of this model: {_some(absent)}. They are estimated "
        f"from the rates that the others reached ({share:.0%} of the time of one call of each), without workspace",
        ProfileWarning,
        stacklevel=2,
    )
    return costs


class _Rates:
    """What the calls of a profile reached: FLOP per second by dtype, bytes per second, least seconds of a call."""

    def __init__(self, calls: Iterable[ProfiledCall]) -> None:
        entries = [entry for entry in calls if entry.seconds > 0]
        self._least = min((entry.seconds for entry in entries), default=0.0)
        self._bandwidth = _total_rate([(e.bytes_moved, e.seconds) for e in entries if not e.flops and e.bytes_moved])
        self._arithmetic: Mapping[str, float] = {
            dtype: _total_rate([(e.flops, e.seconds) for e in entries if e.flops and e.dtype == dtype])
            for dtype in {e.dtype for e in entries if e.flops}
        }

    def cover(self, call: OpCall) -> bool:
        if not self._bandwidth:
            return False
        return not flops(call) or _dtype_name(operand_dtype(call)) in self._arithmetic

    def seconds(self, call: OpCall) -> float:
        work = flops(call)
        arithmetic = work / self._arithmetic[_dtype_name(operand_dtype(call))] if work else 0.0
        return max(arithmetic, bytes_moved(call) / self._bandwidth, self._least)


def _total_rate(amounts: list[tuple[int, float]]) -> float:
    """Amount per second over the larger half of the calls: the small ones are all launch."""
    if not amounts:
        return 0.0
    middle = statistics.median(amount for amount, _ in amounts)
    larger = [(amount, seconds) for amount, seconds in amounts if amount >= middle]
    return sum(amount for amount, _ in larger) / sum(seconds for _, seconds in larger)


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return "; ".join(keys[:_SHOWN]) + rest


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
