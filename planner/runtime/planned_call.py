"""The call of a planned module: find the program that fits the inputs, or make one, and run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import in_process_group
from remat_planner.planner.errors import TransformError
from remat_planner.planner.planning import BoundSignature, Step, remember_capture, remembered_capture, settings_of
from remat_planner.planner.runtime.planned_program import PlannedProgram
from remat_planner.planner.runtime.program_source import ProgramSource, Replan
from remat_planner.planner.runtime.torch_compile import hidden_from_torch_compile
from remat_planner.planner.torch_private import inside_transform
from remat_planner.schedules import Schedule
from remat_planner.tracer import capture
from remat_planner.tracer.record import ambient_autocast, same_graph

_log = logging.getLogger("remat_planner")
_MOST_PROGRAMS = 32
"""Programs kept for different inputs, or as many as the schedule has forms; the least recently used one goes first."""


class PlannedCall:
    """The programs of one planned model, and the choice between them.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan, with its schedules for other forms of input.
        loss: the loss of the plan, for captures; None for the one that the schedule remembers, or the default one.
        replan: makes a schedule for inputs of another form.
        compiler: compiles the programs; None for PyTorch's own kernels.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        *,
        loss: Callable[[Any], torch.Tensor] | None,
        replan: Replan,
        compiler: str | None = None,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.compiler = compiler
        self.loss = loss or settings_of(schedule).loss
        self.replan = replan
        self._source = ProgramSource(model, schedule, self.loss, replan, compiler)
        self._bound: list[tuple[PlannedProgram, BoundSignature]] = []  # the most recently used one first
        self._emitted_for_group = in_process_group()
        for form in reversed(schedule.forms):
            joint = remembered_capture(form)
            if joint is not None and joint.model is model:
                self.add(self._source.program(form, joint))

    @property
    def programs(self) -> tuple[PlannedProgram, ...]:
        """The programs made so far, the most recently used one first."""
        return tuple(program for program, _ in self._bound)

    def add(self, program: PlannedProgram) -> None:
        """Add a program, which the next call tries first.

        Raises:
            ShardedError: the model's parameters are DTensors now.
        """
        self._source.refuse_sharded()
        self._bound.insert(0, (program, BoundSignature(program.joint, self.model)))
        del self._bound[max(_MOST_PROGRAMS, len(self.schedule.forms)) :]

    def on(self, model: nn.Module) -> PlannedCall:
        """The same programs on a copy of the model, without a reference to this one."""
        schedule = replace(self.schedule)
        copied = PlannedCall(model, schedule, loss=self.loss, replan=self.replan, compiler=self.compiler)
        copied._emitted_for_group = self._emitted_for_group
        for program in reversed(self.programs):
            joint = replace(program.joint, model=model)
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
        if not torch.is_grad_enabled() or not self._trains():
            return self.model(*args, **kwargs)
        if inside_transform():
            raise TransformError(
                "a planned module is called inside of a torch.func transform (grad, vmap, jvp), which cannot trace its custom "
                "backward: call the model without its plan there, remat_planner.remove_schedule(model)"
            )
        if in_process_group() is not self._emitted_for_group:
            self._emit_again()
        leaves, spec = pytree.tree_flatten((args, kwargs))
        autocast = ambient_autocast()
        # These would fit, but Python values that the forward can read have changed since the capture.
        python_state_changed: list[tuple[int, list[torch.Tensor], list[torch.Tensor]]] = []
        for position, (program, signature) in enumerate(self._bound):
            inputs = signature.inputs(leaves, spec)  # first, because it soon rules out the programs for other inputs
            state = None if inputs is None else signature.state()
            if state is not None and inputs is not None and signature.holds(state, inputs, autocast):
                if signature.changed_python_state():
                    python_state_changed.append((position, state, inputs))
                    continue
                if position:
                    self._bound.insert(0, self._bound.pop(position))
                return program.run(state, inputs, leaves, signature.roots_of(args, kwargs))
        if python_state_changed:
            graph = self._graph_now(self._bound[python_state_changed[0][0]][1], args, kwargs)
            for position, state, inputs in python_state_changed:
                program, signature = self._bound[position]
                if same_graph(graph, program.joint.graph.graph):
                    signature.accept_python_state()
                    return program.run(state, inputs, leaves, signature.roots_of(args, kwargs))
        if not any(t.requires_grad for t in (*self.model.parameters(), *leaves) if isinstance(t, torch.Tensor)):
            return self.model(*args, **kwargs)  # all frozen, as in a reference model: no backward, nothing to plan
        self.add(self._source.program_for(args, kwargs, autocast, [program.schedule for program in self.programs]))
        program, signature = self._bound[0]
        new_state, new_inputs = signature.state(), signature.inputs(leaves, spec)
        if new_state is None or new_inputs is None or not signature.holds(new_state, new_inputs, autocast):
            raise RuntimeError("the new capture does not fit the inputs that it was captured with; please report this")
        return program.run(new_state, new_inputs, leaves, signature.roots_of(args, kwargs))

    def _emit_again(self) -> None:
        """Emit all programs anew: a process group came or went, which changes how gradients are handed over."""
        self._emitted_for_group = in_process_group()
        self._bound = [(self._source.program(program.schedule, program.joint), signature) for program, signature in self._bound]

    def _graph_now(self, signature: BoundSignature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.fx.Graph:
        """The step's graph with the present attributes of the model, which shows whether they matter to it."""
        _log.warning(
            "changed since the model was captured, which is done once more to see what that does: %s",
            ", ".join(signature.changed_python_state()),
        )
        return capture(self.model, args, kwargs, loss=self.loss).graph.graph

    def _trains(self) -> bool:
        """Whether the plan covers the model's mode: evaluation is eager, unless the plan is for a model in evaluation mode."""
        if self.model.training:
            return True
        return any("" in form.origin.modes for form in self.schedule.forms) or any(
            not program.joint.training for program, _ in self._bound
        )
