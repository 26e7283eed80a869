"""Dictionaries that a forward can look tensors up in: other tensors stand for these while it is recorded."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch

from remat_planner.tracer.python_state import Holder
from remat_planner.tracer.refusals import tensor_keys_error


def refuse_tensor_keys(holders: Iterable[Holder], tensors: Iterable[torch.Tensor]) -> None:
    """Refuse dictionaries among ``holders`` whose keys are some of ``tensors``, which have stand-ins.

    Raises:
        PythonStateError: there is one.
    """
    identities = set(map(id, tensors))
    for holder in holders:
        if isinstance(holder.target, dict) and any(id(_referent(key)) in identities for key in holder.entries()):
            raise tensor_keys_error(holder.place.label)


def _referent(key: Any) -> Any:
    return key() if isinstance(key, weakref.ref) else key
