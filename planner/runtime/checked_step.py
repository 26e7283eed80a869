"""Steps with checks of values: where a check fires, what the forward has changed is put back, and the step is done in eager."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from remat_planner.planner.codegen import generator_of
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.step_watch import Watch
from remat_planner.tracer.functions import CheckFiredError
from remat_planner.tracer.python_state import Roots

_log = logging.getLogger("remat_planner")


class CheckedStep:
    """Runs planned forwards of ``model`` that check values."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._told: set[str] = set()

    def __call__(
        self,
        program: PlannedProgram,
        state: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        leaves: Sequence[Any],
        roots: Roots,
        watch: Watch | None,
    ) -> Any:
        """The output of ``program``, which has checks, or of eager's forward where one fires. The arguments are ``run``'s."""
        undo = program.joint.undo
        assert undo is not None
        put_back = undo.kept([*state, *inputs], [*undo.own, *map(generator_of, undo.devices)])
        try:
            return program.run(state, inputs, leaves, roots, watch)
        except CheckFiredError as error:
            source = error.source
        put_back()  # no value of the planned forward is alive any more
        if source not in self._told:
            self._told.add(source)
            _log.warning(
                "%s: the value that is read here is another one than when the step was planned, so this step is done by eager, "
                "without the plan and outside of its budget. It is compared in each step; this is said once",
                source,
            )
        return self._model(*roots.args, **(roots.kwargs or {}))
