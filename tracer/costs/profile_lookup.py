"""The costs of calls according to a profile.

A call that the profile lacks is estimated by a roofline whose rates are those that the profile's own calls reached.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Iterable, Mapping

from remat_planner.tracer.costs.errors import ProfileError, ProfileWarning
from remat_planner.tracer.costs.flops import flops
from remat_planner.tracer.costs.profile_file import Profile, ProfiledCall, dtype_name
from remat_planner.tracer.costs.roofline import bytes_moved, operand_dtype
from remat_planner.tracer.operators import OpCall

_SHOWN = 5
"""Calls that a message names before it counts the rest."""


def profiled_calls(
    profile: Profile, calls: Iterable[OpCall], path: str | os.PathLike[str]
) -> dict[str, tuple[float, int, tuple[int, ...]]]:
    """Seconds, workspace bytes and bytes of each new storage for every call that is no view, by key.

    Warns where the profile lacks calls; these are estimated, without workspace.

    Raises:
        ProfileError: the profile lacks calls, and has no calls of their kind to estimate them from.
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
            f"{path}: lacks {len(absent)} of {len(distinct)} operator calls of this model, and has no call of their kind to "
            f"estimate these from: {_some(hopeless)}. Measure a profile of this model, or of one like it",
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
    """The rates that the calls of a profile reached: FLOP per second by dtype, bytes per second, least seconds of a call."""

    def __init__(self, calls: Iterable[ProfiledCall]) -> None:
        entries = [entry for entry in calls if entry.seconds > 0]
        self._least = min((entry.seconds for entry in entries), default=0.0)
        self._bandwidth = _total_rate([(e.bytes_moved, e.seconds) for e in entries if not e.flops and e.bytes_moved])
        self._arithmetic: Mapping[str, float] = {
            dtype: _total_rate([(e.flops, e.seconds) for e in entries if e.flops and e.dtype == dtype])
            for dtype in {e.dtype for e in entries if e.flops}
        }

    def cover(self, call: OpCall) -> bool:
        """Whether the profile has calls of the same kind to estimate ``call`` from."""
        if not self._bandwidth:
            return False
        return not flops(call) or dtype_name(operand_dtype(call)) in self._arithmetic

    def seconds(self, call: OpCall) -> float:
        work = flops(call)
        arithmetic = work / self._arithmetic[dtype_name(operand_dtype(call))] if work else 0.0
        return max(arithmetic, bytes_moved(call) / self._bandwidth, self._least)


def _total_rate(amounts: list[tuple[int, float]]) -> float:
    """Amount per second over the larger half of the calls: launches dominate the small ones."""
    if not amounts:
        return 0.0
    middle = statistics.median(amount for amount, _ in amounts)
    larger = [(amount, seconds) for amount, seconds in amounts if amount >= middle]
    return sum(amount for amount, _ in larger) / sum(seconds for _, seconds in larger)


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return "; ".join(keys[:_SHOWN]) + rest
