"""Running real steps of a model and leaving everything as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from remat_planner.planner.measurement.kept_state import KeptState


@contextmanager
def state_restored(
    model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, others: Iterable[Any] = ()
) -> Iterator[KeptState]:
    """Put everything back at the end that training steps inside change; the arguments are those of ``KeptState``.

    Yields the state as it is now. Its ``restart`` goes back to it in between, with gradients cleared.
    """
    state = KeptState(model, args, kwargs, others)
    try:
        yield state
    finally:
        state.put_back()
