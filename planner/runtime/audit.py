"""Audits while a model trains: the forward is recorded once more on fakes and compared with the one that was planned.

A planned step runs none of the forward's Python code. What this code reads is watched, but not all of it can be: a file, the
time, an object in C, a global of an installed package. An audit finds what differs for such a reason.

The second call is audited, then a call whenever the time since the last audit is so long that audits take no more than one
hundredth of it. Each such call has a number that is a multiple of a power of two. So the ranks of a process group, whose steps
take equally long and wait for each other, audit in the same steps, and need not agree on them by a collective, in which other
ranks might not take part. An ``AuditError`` on one rank leaves the others as any exception in a forward does.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from remat_planner.planner.errors import AuditError
from remat_planner.planner.torch_private import current_backward
from remat_planner.tracer import CaptureError, Joint, record_forward
from remat_planner.tracer.joint import RecordedForward
from remat_planner.tracer.record import is_observed

_log = logging.getLogger("remat_planner")

SHARE_OF_TIME = 0.01
"""Of the time of training that all audits may take together."""
_FIRST_CALL = 2


class Audit:
    """When to audit the calls of one planned module, and the audits.

    Args:
        parts: number of modules of the same model that are audited each by itself. Each takes its part of the time.

    Attributes:
        calls: number of calls so far; the caller counts.
        next: number of the call before which there is nothing to do.
    """

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self.calls = 0
        self.next = _FIRST_CALL
        self._audited = 0  # the last call that was
        self._end = 0.0  # of its audit: time.perf_counter, in seconds
        self._seconds = 0.0  # that it took

    def look(self, joint: Joint, known: RecordedForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Audit this call if enough time has passed, and else say which call to look at next.

        Args:
            joint: the captured step that is about to run.
            known: the forward that was seen to lead to this step.
            args: the positional inputs.
            kwargs: the named inputs.

        Raises:
            AuditError: the forward differs from the one that was planned.
        """
        start = time.perf_counter()
        if self._audited:
            passed = self.calls - self._audited
            seconds_per_call = max(start - self._end, 1e-9) / passed
            calls = self._seconds * self.parts / SHARE_OF_TIME / seconds_per_call  # of which an audit takes its share
            between = 1 << max(0, math.ceil(calls) - 1).bit_length()
            if passed < calls or self.calls % between:
                # At most as many calls again as have passed: these may have been quicker than those to come.
                self.next = self.calls + min(passed, between - self.calls % between)
                return
        self.next = self.calls + 1
        if is_observed() or current_backward() >= 0:  # as where torch.utils.checkpoint runs a planned module again
            return
        try:
            _audit(joint, known, args, kwargs)
        except AuditError:
            raise
        except Exception:  # of the recording itself: it says nothing about the plan
            self.next = sys.maxsize
            _log.warning(
                "the forward of %s could not be audited, and is not any more; please report this",
                type(joint.model).__name__,
                exc_info=True,
            )
            return
        self._audited, self._end = self.calls, time.perf_counter()
        self._seconds = self._end - start
        _log.debug("audited the forward of %s in %.3f s", type(joint.model).__name__, self._seconds)


def _audit(joint: Joint, known: RecordedForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    try:
        now = record_forward(joint, known, args, kwargs)
    except CaptureError as error:
        torch.clear_autocast_cache()  # it may hold fakes
        raise _error(joint, (f"it can no longer be captured: {error}",)) from error
    differences = known.differences(now)
    if differences:
        raise _error(joint, differences)


def _error(joint: Joint, differences: tuple[str, ...]) -> AuditError:
    model = joint.model.__class__.__name__
    return AuditError(
        f"the forward of {model} is not the planned one any more: {'; '.join(differences)}. A planned step keeps what it "
        "captured, so this step would not be eager's. The forward reads something that the planner cannot watch (a file, the "
        "time, an object in C, a global of an installed package): make it an input or an attribute of the model, and plan "
        "again. Where the difference is harmless, switch audits off: apply_schedule(..., audit=False)",
        model=model,
        differences=differences,
    )
