"""The call of a planned module: find the program that fits the inputs, or make one, and run it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from remat_planner.planner.codegen import order_is_observed
from remat_planner.planner.errors import TransformError
from remat_planner.planner.planning import (
    BoundSignature,
    CallNow,
    Step,
    differences_of,
    remember_capture,
    remembered_capture,
    settings_of,
)
from remat_planner.planner.runtime.audit import Audit
from remat_planner.planner.runtime.calling_threads import CallingThreads
from remat_planner.planner.runtime.checked_step import CheckedStep
from remat_planner.planner.runtime.numbered_programs import NumberedPrograms
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.program_source import ProgramSource, Replan
from remat_planner.planner.runtime.range_programs import RangePrograms
from remat_planner.planner.runtime.recaptures import Recaptures
from remat_planner.planner.runtime.same_step import same_step
from remat_planner.planner.runtime.sized_programs import SizedPrograms
from remat_planner.planner.runtime.step_programs import PlanLevel
from remat_planner.planner.runtime.step_watch import StepWatch, Watch
from remat_planner.planner.runtime.torch_compile import hidden_from_torch_compile
from remat_planner.planner.runtime.unplanned import UnplannedTraining
from remat_planner.planner.torch_private import inside_transform
from remat_planner.schedules import Schedule, is_at_largest
from remat_planner.tracer import InputsDoNotFitError, capture
from remat_planner.tracer.joint import InputReader, InputTree, RecordedForward
from remat_planner.tracer.python_state import Roots
from remat_planner.tracer.record import (
    Switches,
    ambient_autocast,
    hooks_of,
    refuse_checkpoint_around,
    refuse_surroundings,
    switches,
)

_log = logging.getLogger("remat_planner")

_MOST_PROGRAMS = 32
"""Programs kept for different inputs, or as many as the schedule has forms; the least recently used one goes first."""


class _Fitting(NamedTuple):
    """A program that fits a call, with the state and the inputs that it runs on, and the forward that led to it."""

    bound: tuple[PlannedProgram, BoundSignature]
    state: list[torch.Tensor]
    inputs: list[torch.Tensor]
    forward: RecordedForward


class PlannedCall:
    """The programs of one planned model, and the choice between them.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan, with its schedules for other forms of input.
        loss: the loss of the plan, for captures; None for the one that the schedule remembers, or the default one.
        replan: makes a schedule for inputs of another form.
        plan_level: plans a step that is captured for many sizes; None to capture each size by itself.
        compiler: compiles the programs; None for PyTorch's own kernels.
        watched: whether to say on the logger when training does not use the plan or takes more bytes than it counts.
        watch: what is told of the steps in the place of a watch of its own.
        audit: when to record the forward once more and compare it; None for never.
        disk_folder: for the files of schedules that copy to a disk.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        *,
        loss: Callable[..., torch.Tensor] | None,
        replan: Replan,
        plan_level: PlanLevel | None = None,
        compiler: str | None = None,
        watched: bool = False,
        watch: Watch | None = None,
        audit: Audit | None = None,
        disk_folder: str | Path | None = None,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.compiler = compiler
        self.loss = loss or settings_of(schedule).loss
        self.replan = replan
        self.audit = audit
        self.disk_folder = disk_folder
        self._source = ProgramSource(model, schedule, self.loss, replan, compiler, disk_folder)
        self._plan_level = plan_level
        self._numbered = NumberedPrograms(model, schedule, self.loss)
        self._sized = self._sized_programs()
        self._ranges = RangePrograms(model, schedule, self.loss)
        self._bound: list[tuple[PlannedProgram, BoundSignature]] = []  # the most recently used one first
        self._reader = InputReader()
        self._threads = CallingThreads()
        self._checked = CheckedStep(model)
        self._recaptures = Recaptures(self._most_programs)
        self._order_observed = order_is_observed(self.model)
        self._watch: Watch | None = StepWatch() if watched else watch
        self._unplanned = UnplannedTraining(model) if watched else None
        for form in reversed(schedule.forms):
            joint = remembered_capture(form)
            if joint is not None and joint.model is model and is_at_largest(form.origin.ranges):
                self.add(self._source.program(form, joint))

    def returned(self, planned: nn.Module) -> None:
        """``apply_schedule`` returns ``planned``, which runs this."""
        if self._unplanned is not None:
            self._unplanned.returned(planned)

    def _sized_programs(self) -> SizedPrograms | None:
        if self._plan_level is None or self.compiler is not None or self.schedule.graph.pools:
            return None
        return SizedPrograms(self.model, self.schedule, self.loss, self._plan_level, self._numbered)

    def expect_unplanned(self) -> None:
        """The model is used without its plan on purpose."""
        if self._unplanned is not None:
            self._unplanned.planned()

    def unwatched(self) -> None:
        """Say nothing and audit nothing from now on: the caller looks at these steps itself."""
        self.expect_unplanned()
        self._watch = self._unplanned = self.audit = None

    @property
    def programs(self) -> tuple[PlannedProgram, ...]:
        """The programs made so far, the most recently used one first."""
        return tuple(program for program, _ in self._bound)

    def add(self, program: PlannedProgram) -> tuple[PlannedProgram, BoundSignature]:
        """Add a program, which the next call tries first, and return it bound to the model.

        Raises:
            ShardedError: the model's parameters are DTensors now.
        """
        self._source.refuse_sharded()
        return self._first((program, BoundSignature(program.joint, self.model)))

    def _first(self, bound: tuple[PlannedProgram, BoundSignature]) -> tuple[PlannedProgram, BoundSignature]:
        """Put ``bound`` before the others, in a new list: another thread may go through the old one."""
        self._bound = [bound, *(other for other in self._bound if other is not bound)][: self._most_programs]
        return bound

    @property
    def _most_programs(self) -> int:
        return max(_MOST_PROGRAMS, len(self.schedule.forms))

    def on(self, model: nn.Module) -> PlannedCall:
        """The same programs on a copy of the model, without a reference to this one."""
        schedule = replace(self.schedule)
        copied = PlannedCall(
            model,
            schedule,
            loss=self.loss,
            replan=self.replan,
            plan_level=self._plan_level,
            compiler=self.compiler,
            watched=self._unplanned is not None,
            audit=None if self.audit is None else Audit(self.audit.parts),
            disk_folder=self.disk_folder,
        )
        copied._order_observed = self._order_observed
        for program in reversed([program for program in self.programs if not program.is_larger]):
            joint = replace(program.joint, model=model, hooks=hooks_of(model))  # those of the copy, which may be its methods
            if program.schedule is self.schedule:
                step = Step(schedule.graph, joint, schedule.origin, settings_of(self.schedule))
                remember_capture(schedule, step)
                copied.add(replace(program, schedule=schedule, joint=joint))
            else:
                copied.add(replace(program, joint=joint))
        return copied

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the model on these inputs: planned where a backward can follow, eager otherwise."""
        if torch.compiler.is_dynamo_compiling():
            return hidden_from_torch_compile(self._call)(args, kwargs)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        several = self._threads.are_several()
        if not torch.is_grad_enabled():
            return self.model(*args, **kwargs)
        if not self._trains():
            output = self.model(*args, **kwargs)
            if self._unplanned is not None:
                self._unplanned.evaluated(output)
            elif self._watch is not None:
                self._watch.evaluated(output)
            return output
        if self._unplanned is not None:
            self._unplanned.planned()
        if inside_transform():
            raise TransformError(
                "a planned module is called inside of a torch.func transform (grad, vmap, jvp), which cannot trace its custom "
                "backward: call the model without its plan there, remat_planner.remove_schedule(model)"
            )
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise TransformError(
                "a planned module is called inside of torch.export or torch.jit.trace, which would write down its "
                "recomputation, and not its backward: export the model without its plan, remat_planner.remove_schedule(model), "
                "or in evaluation mode"
            )
        if order_is_observed(self.model) is not self._order_observed:
            self._emit_again()
        leaves, tree = self._reader.flatten(args, kwargs)
        refuse_surroundings(self.model, leaves)
        autocast, settings = ambient_autocast(), switches()
        fitting = self._fitting(leaves, tree, autocast, settings)
        if fitting is not None:
            program, signature = fitting.bound
            if fitting.bound is not self._bound[0]:
                self._first(fitting.bound)
            audit = None if several else self.audit
            if audit is not None:
                audit.calls += 1
                if audit.calls >= audit.next:
                    with self._threads.recording:
                        audit.look(program.joint, fitting.forward, args, kwargs)
            return self._run(program, fitting.state, fitting.inputs, leaves, signature.roots_of(args, kwargs))
        if not any(t.requires_grad for t in (*self.model.parameters(), *leaves) if isinstance(t, torch.Tensor)):
            return self.model(*args, **kwargs)  # all frozen, as in a reference model: no backward, nothing to plan
        if self.audit is not None:
            self.audit.calls += 1  # a call that is captured needs no audit
        try:
            with self._threads.recording:
                program, signature = self._program_for(CallNow(args, kwargs, leaves, tree, autocast, settings))
        except InputsDoNotFitError as error:
            if isinstance(error.__cause__, Exception):
                # Training code may catch the forward's own exception, and goes on with what eager changed until then.
                self.model(*args, **kwargs)
            raise
        new_state, new_inputs = signature.state(), signature.inputs(leaves, tree)
        if new_state is None or new_inputs is None or not signature.accepted(new_state, new_inputs, autocast, settings):
            raise RuntimeError("the new capture does not fit the inputs that it was captured with; please report this")
        return self._run(program, new_state, new_inputs, leaves, signature.roots_of(args, kwargs))

    def schedule_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule | None:
        """The schedule by which a call with these inputs would run; None if there is no program for it."""
        fitting = self._fitting(*self._reader.flatten(args, kwargs), ambient_autocast(), switches())
        return None if fitting is None else fitting.bound[0].schedule

    def _fitting(self, leaves: list[Any], tree: InputTree, autocast: Mapping[str, str], settings: Switches) -> _Fitting | None:
        """The first program that fits a call."""
        for bound in self._bound:
            signature = bound[1]
            inputs = signature.inputs(leaves, tree)  # first, because it soon rules out the programs for other inputs
            state = None if inputs is None else signature.state()
            if state is None or inputs is None:
                continue
            accepted = signature.accepted(state, inputs, autocast, settings)
            if accepted is not None and not signature.changed_python_state():
                return _Fitting(bound, state, inputs, accepted.forward)
        return None

    def _run(
        self,
        program: PlannedProgram,
        state: list[torch.Tensor],
        inputs: list[torch.Tensor],
        leaves: list[Any],
        roots: Roots,
    ) -> Any:
        refuse_checkpoint_around(program.joint.updated)
        if program.joint.undo is None:
            return program.run(state, inputs, leaves, roots, self._watch)
        return self._checked(program, state, inputs, leaves, roots, self._watch)

    def _program_for(self, call: CallNow) -> tuple[PlannedProgram, BoundSignature]:
        """A program for a call that none fits: one that is there, where a new capture shows that it does, or a new one."""
        alike = [
            (program, signature)
            for program, signature in self._bound
            if not program.is_larger
            and signature.joint.autocast == call.autocast
            and signature.fits_but_for_values(call.leaves, call.tree)
            and signature.tensors() is not None
        ]
        numbered = None if self._sized is None else self._numbered.bound_for(call)
        if numbered is None and alike and self._sized is not None:
            numbered = self._numbered.captured_for(call, alike)
        if numbered is not None:
            return self._first(numbered)
        if alike:
            differences = differences_of(call, alike[0][1])
            start = time.perf_counter()
            joint = capture(self.model, call.args, call.kwargs, loss=self.loss)
            tell = functools.partial(self._recaptures.tell, call, differences, seconds=time.perf_counter() - start)
            for program, signature in alike:
                if self._fits_so_far(call, signature) and same_step(joint, program.joint):
                    signature.accept(joint)
                    tell("the step is the same", programs=len(self._bound))
                    return program, signature
            new = self._source.program_like([program for program, _ in alike], joint)
            if new is not None:
                added = self.add(new)
                tell("only numbers differ, so its schedule is kept", programs=len(self._bound))
                return added
            tell(None, programs=len(self._bound))
        known = [program.schedule for program in self.programs]
        if not alike:
            self._source.refuse_sharded()
            bound = self._ranges.bound_for(call)
            if bound is None and not self._source.has_schedule_for(call.args, call.kwargs, call.autocast, known):
                bound = None if self._sized is None else self._sized.bound_for(call, self._bound)
            if bound is not None:
                return self._first(bound)
        places = [s.changed_places() for _, s in self._bound if not alike and s.fits_but_for_values(call.leaves, call.tree)]
        if any(places):
            _log.warning("another tensor, or none, than when the model was captured: %s", ", ".join(next(filter(None, places))))
        return self.add(self._source.program_for(call.args, call.kwargs, call.autocast, known))

    @staticmethod
    def _fits_so_far(call: CallNow, signature: BoundSignature) -> bool:
        """Whether ``call`` is the captured one but for Python values, settings of torch and values in its tensors."""
        return signature.state() is not None and signature.inputs(call.leaves, call.tree) is not None

    def _emit_again(self) -> None:
        """Emit all programs anew: a process group, or hooks on parameters, came or went, which changes how gradients leave."""
        self._order_observed = order_is_observed(self.model)
        self._numbered = NumberedPrograms(self.model, self.schedule, self.loss)
        self._sized = self._sized_programs()
        self._ranges = RangePrograms(self.model, self.schedule, self.loss)
        self._bound = [
            (self._source.program(program.schedule, program.joint), signature)
            for program, signature in self._bound
            if not program.is_larger
        ]

    def _trains(self) -> bool:
        """Whether the plan covers the model's mode: evaluation is eager, unless the plan is for a model in evaluation mode."""
        if self.model.training:
            return True
        return any("" in form.origin.modes for form in self.schedule.forms) or any(
            not program.joint.training for program, _ in self._bound
        )
