"""The level of a ``logging.Logger``, on which forwards branch (``if logger.isEnabledFor(logging.DEBUG)``)."""

from __future__ import annotations

from typing import Any

from remat_planner.tracer.python_state.holders import Holder
from remat_planner.tracer.python_state.places import Place


class LoggerLevel(Holder):
    """A logger, by what decides which messages it takes; loggers above it and ``logging.disable`` count."""

    has_places = False

    def entries(self) -> dict[Any, Any]:
        logger = self.target
        own, disabled = (logger.level, logger.disabled), logger.manager.disable
        return {"own": own, "level": max(logger.getEffectiveLevel(), disabled + 1) if disabled else logger.getEffectiveLevel()}

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - a level has no place of its own
        return self.place

    def put_back(self, entries: dict[Any, Any]) -> None:
        level, self.target.disabled = entries["own"]
        if self.target.level != level:
            self.target.setLevel(level)
