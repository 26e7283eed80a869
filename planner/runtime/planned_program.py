"""A schedule as a program on the step that was captured for it, ready to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from remat_planner.planner.codegen import emit, program_with
from remat_planner.planner.compile import CompiledParts, compiled_program, compiler_named, refuse_copies
from remat_planner.planner.copies import Pools, pools_of
from remat_planner.planner.runtime.autocast_cache import current_cache, shared_casts
from remat_planner.planner.runtime.autograd import run_program
from remat_planner.planner.runtime.outside_casts import LookUps, OutsideCasts
from remat_planner.planner.runtime.step_watch import Watch
from remat_planner.planner.runtime.wiring import Wiring, wire
from remat_planner.planner.training_state import retained_outputs
from remat_planner.schedules import Schedule
from remat_planner.tracer.joint import Joint, OutputLeaf
from remat_planner.tracer.lower import variant_as
from remat_planner.tracer.python_state import Roots

if TYPE_CHECKING:
    from remat_planner.tracer.sizes import SizedJoint

_log = logging.getLogger("remat_planner")


@dataclass(frozen=True)
class PlannedProgram:
    """A schedule, the capture whose nodes are its ops, and the program made of both. It runs on any model of the captured form.

    Attributes:
        schedule: the schedule.
        joint: the captured step.
        wiring: the program.
        compiled: what of the program is compiled; None without a compiler.
        pools: what the program copies to, by name.
        is_larger: the schedule is of a step with larger sizes or other numbers, whose code runs with those of this one.
    """

    schedule: Schedule
    joint: Joint
    wiring: Wiring
    compiled: CompiledParts | None = None
    pools: Pools = field(default_factory=dict)
    is_larger: bool = False

    @classmethod
    def of(
        cls, schedule: Schedule, joint: Joint, compiler: str | None = None, disk_folder: str | Path | None = None
    ) -> PlannedProgram:
        """Emit the program, and compile it where ``compiler`` names a compiler.

        Raises:
            OffloadError: what the schedule copies to cannot serve this device, or has no room.
            schedules.InvalidScheduleError: the steps would not give eager's bits.
            CompilerError: the compiler cannot compile the program.
        """
        as_planned = variant_as(joint, schedule.graph)
        wiring = wire(as_planned, program := emit(as_planned, schedule.graph, schedule.steps))
        pools = pools_of(schedule, wiring.device, disk_folder)
        if compiler is None:
            return cls(schedule, joint, wiring, pools=pools)
        refuse_copies(compiler, pools)
        program, parts = compiled_program(program, compiler_named(compiler))
        _log.info("%s", parts)
        return cls(schedule, joint, wire(as_planned, program), parts)

    def with_sizes(self, sized: SizedJoint, numbers: Sequence[Any]) -> PlannedProgram:
        """This program of ``sized`` for other sizes, of which the step has these ``numbers``."""
        program = program_with(self.wiring.program, numbers)
        wiring = self.wiring.of_sizes(program, sized.forms_with("tangent_nodes", numbers))
        return replace(self, joint=sized.for_call(self.joint, numbers), wiring=wiring, is_larger=True)

    def run(
        self,
        state: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        leaves: Sequence[Any],
        roots: Roots,
        watch: Watch | None = None,
    ) -> Any:
        """The step's output. What the forward leaves behind in Python state is there too when this returns.

        Args:
            state: the model's parameters and buffers.
            inputs: the input tensors.
            leaves: all leaves of the call's arguments, among which are the inputs.
            roots: the model and the arguments, where Python state changes.
            watch: is told of the step.
        """
        joint, wiring = self.joint, self.wiring
        arguments = [*state, *inputs]
        owners = list(map(arguments.__getitem__, self._owners))
        on_backward = self._refusal_of_shared_casts(state)
        flight = None if watch is None else watch.flight(self.schedule, joint, on_backward)
        pools = {name: pool.for_step() for name, pool in self.pools.items()} or None
        tensors = run_program(wiring, arguments, owners, flight or on_backward, pools)
        if flight is not None and self.schedule.origin.training.outputs == "dropped":
            flight.returns(*self._to_be_dropped(tensors))
        results = [
            self._value(leaf, leaves, roots)
            if position is None
            else tensors[position].item()
            if leaf.is_number
            else tensors[position]
            for leaf, position in zip(joint.outputs, wiring.program.outputs, strict=True)
        ]
        if joint.effects.made:
            joint.effects.apply(roots, results[joint.returned :])
        return joint.output(results)

    def _to_be_dropped(self, tensors: Sequence[torch.Tensor]) -> tuple[dict[str, torch.Tensor], set[str]]:
        """The outputs that the loop is to drop, by name, and the names of those whose memory the schedule retains."""
        names = self.wiring.output_names
        starts = () if self.joint.loss is not None else self.joint.tangent_outputs
        positions = {k: at for k, at in enumerate(self.wiring.program.outputs) if at is not None and k not in starts}
        return (
            {names[position]: tensors[position] for position in positions.values()},
            {names[position] for leaf, position in positions.items() if leaf in self._retained_outputs},
        )

    @cached_property
    def _retained_outputs(self) -> frozenset[int]:
        return retained_outputs(self.schedule.graph, self.joint, self.schedule.steps)

    def _value(self, leaf: OutputLeaf, leaves: Sequence[Any], roots: Roots) -> Any:
        """A leaf of the output that the program does not compute: an input, an object among the arguments, or a constant."""
        if leaf.node is not None:
            return leaves[self._inputs[leaf.node]]
        return leaf.constant if leaf.place is None else leaf.place.find(roots)

    def _refusal_of_shared_casts(self, state: Sequence[torch.Tensor]) -> Callable[[], None] | None:
        if not self._casts:
            return None
        model, device = self.joint.model, next(iter(self.joint.autocast))
        autocast_cache = current_cache(device)
        if not self._look_ups.is_due():
            return lambda: autocast_cache.refuse_another(model)
        outside = OutsideCasts({name: state[place] for name, place in self._casts.items()}, device, self._look_ups)
        outside.look_up_at_exit()

        def refuse() -> None:
            autocast_cache.refuse_another(model)
            outside.refuse(model)

        return refuse

    @cached_property
    def _owners(self) -> list[int]:
        """For each gradient the place, among parameters, buffers and inputs, of the tensor that receives it."""
        state = len(self.joint.parameters) + len(self.joint.buffers)
        return [g.index if g.owner == "parameter" else state + g.index for g in self.joint.gradients]

    @cached_property
    def _inputs(self) -> dict[fx.Node, int]:
        """The place among a call's leaves of the input that each node stands for."""
        return dict(zip(self.joint.input_nodes, self.joint.input_leaves, strict=True))

    @cached_property
    def _casts(self) -> dict[str, int]:
        """Name and place among the parameters of each whose cast it would share."""
        places = {slot: place for place, slot in enumerate(self.joint.parameters)}
        return {slot.name: places[slot] for slot in shared_casts(self.joint)}

    @cached_property
    def _look_ups(self) -> LookUps:
        return LookUps()
