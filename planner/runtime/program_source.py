"""Where the program for a new kind of call comes from: a loaded schedule that fits it, or a new plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.planner.distributed import is_sharded
from remat_planner.planner.errors import InfeasibleBudgetError, ShardedError
from remat_planner.planner.planning import (
    describe_call,
    input_signature,
    is_form_of,
    mode_signature,
    remembered_capture,
)
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.recapture import OtherValuesError, is_step_of, recapture
from remat_planner.planner.runtime.same_step import differ_in_numbers_only
from remat_planner.schedules import Origin, Schedule, StaleScheduleError
from remat_planner.tracer.joint import Joint

_log = logging.getLogger("remat_planner")

Replan = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Schedule], Schedule]
"""``replan(model, args, kwargs, like)``: a schedule for other inputs, planned as ``like`` was and with its budget."""


@dataclass(frozen=True)
class ProgramSource:
    """Makes the programs of one model.

    Attributes:
        model: the model itself, which stays eager.
        schedule: the plan, with its schedules for other forms of input.
        loss: the loss of the plan, for captures; None for the default one.
        replan: makes a schedule for inputs of another form.
        compiler: compiles the programs; None for PyTorch's own kernels.
        disk_folder: for the files of schedules that copy to a disk.
    """

    model: nn.Module
    schedule: Schedule
    loss: Callable[..., torch.Tensor] | None
    replan: Replan
    compiler: str | None = None
    disk_folder: str | Path | None = None

    def program_for(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], autocast: Mapping[str, str], known: Collection[Schedule]
    ) -> PlannedProgram:
        """A program for a call that the programs of the ``known`` schedules do not fit.

        Raises:
            ShardedError: the model's parameters are DTensors now.
            StaleScheduleError: the model runs another step than the one of the loaded schedule, and no program is known.
            InfeasibleBudgetError: the budget is too small for these inputs.
        """
        self.refuse_sharded()
        call = self._origin_of(args, kwargs, autocast)
        stale: StaleScheduleError | None = None
        for schedule in self._loaded_for(call, known):
            try:
                return self.program(schedule, recapture(self.model, args, kwargs, schedule, self.loss))
            except OtherValuesError:
                continue
            except StaleScheduleError as error:
                stale = stale or error
        if stale is not None and not known:
            raise stale
        _log.warning(
            "inputs or model differ from what was planned (%s): planning once for them with the same budget of %s bytes",
            describe_call(call) + _other_mode(self.schedule, call),
            f"{self.schedule.budget:,}",
        )
        try:
            schedule = self.replan(self.model, args, kwargs, self.schedule)
        except InfeasibleBudgetError as error:
            raise error.of_form(call.inputs, _other_mode(self.schedule, call)) from None
        joint = remembered_capture(schedule)
        if joint is None:
            raise RuntimeError("the new plan came without its capture; please report this")
        return self.program(schedule, joint)

    def has_schedule_for(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], autocast: Mapping[str, str], known: Collection[Schedule]
    ) -> bool:
        """Whether a loaded schedule that is not ``known`` is for a call like this one."""
        return any(form.origin.inputs for form in self._loaded_for(self._origin_of(args, kwargs, autocast), known))

    def _origin_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], autocast: Mapping[str, str]) -> Origin:
        return Origin(inputs=input_signature(args, kwargs), modes=mode_signature(self.model), autocast=autocast)

    def program_like(self, known: Iterable[PlannedProgram], joint: Joint) -> PlannedProgram | None:
        """A program for a new capture by the schedule of a ``known`` program from which it differs in numbers only."""
        for program in known:
            if differ_in_numbers_only(joint, program.joint) and is_step_of(program.schedule, joint):
                return self.program(program.schedule, joint)
        return None

    def program(self, schedule: Schedule, joint: Joint) -> PlannedProgram:
        """The program of ``schedule`` on its capture."""
        return PlannedProgram.of(schedule, joint, self.compiler, self.disk_folder)

    def refuse_sharded(self) -> None:
        """Refuse a model whose parameters were sharded after it was planned.

        Raises:
            ShardedError: a parameter is a DTensor.
        """
        sharded = [name for name, p in self.model.named_parameters() if is_sharded(p)]
        if sharded:
            raise ShardedError(
                f"{sharded[0]} is a DTensor where the planned {type(self.model).__name__} runs. The plan is for whole "
                "parameters, and hooks of inner modules, which would gather them, do not run in it. After fully_shard on inner "
                "modules, plan by regions, one for each of those modules or inside of it: "
                'remat_planner.plan(model, ..., regions="model.layers.*"). Tensor-parallel modules cannot be planned',
                names=tuple(sharded),
            )

    def _loaded_for(self, call: Origin, known: Collection[Schedule]) -> list[Schedule]:
        """The schedules from a file that are for a call like this one and not ``known``."""
        known_ids = {id(schedule) for schedule in known}
        return [
            form
            for form in self.schedule.forms
            if id(form) not in known_ids
            and (
                not form.origin.inputs  # built by hand
                or is_form_of(form.origin, call)
            )
        ]


def _other_mode(schedule: Schedule, call: Origin) -> str:
    """A remark where no form of ``schedule`` is for the mode of the model in ``call``."""
    planned = {form.origin.modes.get("", "training") for form in schedule.forms}
    mode = call.modes.get("", "training")
    return "" if mode in planned else f". The model is in {mode} mode, and the plan is for {' or '.join(planned)} mode"
