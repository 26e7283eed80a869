"""The line of the model that draws from the random generator of Python or NumPy, for the refusal of such a draw."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Any

from remat_planner.tracer.record.provenance import is_users, user_line
from remat_planner.tracer.record.random_state import python_random_state


class DrawnAt:
    """Compares the states of both generators at each line that runs inside, which takes long.

    Attributes:
        source: "file:line" of the first draw; "" for none.
    """

    def __init__(self) -> None:
        self.source = ""
        self._line = ""
        self._state = python_random_state()

    def __enter__(self) -> DrawnAt:
        self._others = sys.gettrace()
        sys.settrace(self._traced)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        sys.settrace(self._others)

    def _traced(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.source or not is_users(frame.f_code.co_filename):
            return None
        if python_random_state() != self._state:
            self.source = self._line
            return None
        self._line = user_line(frame.f_back if event == "return" else frame)
        return self._traced
