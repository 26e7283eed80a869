"""Threads that call one planned module: while one records its forward, the module holds fake tensors, and the others wait."""

from __future__ import annotations

import threading

from remat_planner.planner.torch_private import current_backward

_SEVERAL = 0
"""In the place of the only thread; no thread has this number."""


class CallingThreads:
    """The threads that have called a module, except inside of a backward.

    Attributes:
        recording: held while the forward is recorded.
    """

    def __init__(self) -> None:
        self.recording = threading.RLock()
        self._only: int | None = None

    def are_several(self) -> bool:
        """Whether more than one thread calls the module; if so, a recording in another one is over when this returns."""
        current = threading.get_ident()
        if current == self._only:
            return False
        if self._only is None:
            self._only = current
            return False
        if current_backward() >= 0:  # autograd has threads of its own, in which torch.utils.checkpoint runs a module again
            return False
        self._only = _SEVERAL
        with self.recording:
            return True
