"""Entries of Python state that a first step fills for later ones: a cache of masks, of positions.

A planned step computes what lies there itself and need not fill it. What is another object after each step (a loss that is kept
for the caller) is no cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from remat_planner.tracer.joint import flatten
from remat_planner.tracer.python_state import Change


class FilledOnce:
    """Finds the entries that hold the same object with tensors after every step of a run."""

    def __init__(self) -> None:
        self._after: list[dict[str, Any]] = []

    def restart(self) -> None:
        """Forget the steps of another run."""
        self._after.clear()

    def note(self, changes: Iterable[Change]) -> None:
        """Note what has changed after one more step, since before the first one."""
        self._after.append(
            {
                change.holder.name_of(key): change.after[key]
                for change in changes
                if change.holder.has_places
                for key in change.keys
                if key in change.after
            }
        )

    def names(self) -> tuple[str, ...]:
        """The names of the entries."""
        first, *later = self._after or [{}]
        return tuple(
            name
            for name, value in first.items()
            if all(step.get(name) is value for step in later)
            and any(isinstance(leaf, torch.Tensor) for leaf in flatten(value)[0])
        )

    def holds(self, name: str) -> bool:
        """Whether what is called ``name``, as in "step 1: state cache['cos']", is such an entry or lies in one."""
        _, _, place = name.partition(": state ")
        return any(place == entry or place.startswith((f"{entry}[", f"{entry}.", f"{entry} (")) for entry in self.names())
