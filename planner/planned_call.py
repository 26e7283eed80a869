"""What a planned module does when it is called: find the program for these inputs, or plan again, and run it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.emit import Program, emit
from planner.recapture import recapture
from planner.runtime import IncomingForm, Wiring, run
from planner.signature import BoundSignature
from planner.step import Step, input_signature, remember_capture, remembered_capture, settings_of
from planner.torch_private import inside_transform
from planner.training_errors import TransformError
from schedules import Schedule
from tracer.joint import Joint

_log = logging.getLogger("planner")
# Programs kept for different inputs; the one that was not used for longest goes first.
_MOST_PROGRAMS = 32

Replan = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Schedule], Schedule]
"""``replan(model, args, kwargs, like)``: a schedule for other inputs, planned as ``like`` was and with the same budget."""


@dataclass(frozen=True)
class Planned:
    """A schedule together with the capture that its ops are nodes of, wired to run. Of no model in particular."""

    schedule: Schedule
    joint: Joint
    wiring: Wiring

    @classmethod
    def of(cls, schedule: Schedule, joint: Joint) -> Planned:
        """Emit the program.

        Raises:
            schedules.InvalidScheduleError: the steps would not give eager's bits.
        """
        return cls(schedule, joint, _wire(joint, emit(joint, schedule.graph, schedule.steps)))


class PlannedCall:
    """The programs of one planned model, and the choice between them.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan.
        loss: the loss that it was planned with, where it is not the default one; for a capture that has to be made here.
        replan: makes a schedule for inputs of another form.
    """

    def __init__(
        self, model: nn.Module, schedule: Schedule, *, loss: Callable[[Any], torch.Tensor] | None, replan: Replan
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.loss = loss or settings_of(schedule).loss
        self.replan = replan
        self._bound: list[tuple[Planned, BoundSignature]] = []
        joint = remembered_capture(schedule)
        if joint is not None and joint.model is model:
            self.add(Planned.of(schedule, joint))

    def add(self, planned: Planned) -> None:
        """Make a program known, as the one to try first."""
        self._bound.insert(0, (planned, BoundSignature(planned.joint, self.model)))
        del self._bound[_MOST_PROGRAMS:]

    def on(self, model: nn.Module) -> PlannedCall:
        """The same programs on a copy of the model, holding nothing of this one."""
        schedule = replace(self.schedule)
        copied = PlannedCall(model, schedule, loss=self.loss, replan=self.replan)
        for planned in reversed(self.programs):
            joint = replace(planned.joint, model=model)
            if planned.schedule is self.schedule:
                step = Step(schedule.graph, joint, schedule.origin, settings_of(self.schedule))
                remember_capture(schedule, step)
                copied.add(replace(planned, schedule=schedule, joint=joint))
            else:
                copied.add(replace(planned, joint=joint))
        return copied

    @property
    def programs(self) -> tuple[Planned, ...]:
        """The programs made so far, the one used last first."""
        return tuple(planned for planned, _ in self._bound)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the model on these inputs: planned where a backward can follow, eager otherwise."""
        if not torch.is_grad_enabled() or not self._trains():
            return self.model(*args, **kwargs)
        if inside_transform():
            raise TransformError(
                "a planned module is called inside of a torch.func transform (grad, vmap, jvp), which cannot see through its "
                "own backward: call the model without its plan there, planner.remove_schedule(model)"
            )
        leaves, spec = pytree.tree_flatten((args, kwargs))
        autocast = {d: torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
        for position, (planned, signature) in enumerate(self._bound):
            state = signature.state()
            inputs = None if state is None else signature.inputs(leaves, spec)
            if state is not None and inputs is not None and signature.holds(state, inputs, autocast):
                if position:
                    self._bound.insert(0, self._bound.pop(position))
                return _run(planned, state, inputs, leaves)
        self.add(self._plan(args, kwargs))
        planned, signature = self._bound[0]
        state, inputs = signature.state(), signature.inputs(leaves, spec)
        if state is None or inputs is None or not signature.holds(state, inputs, autocast):
            raise RuntimeError("the capture just made does not hold for the inputs it was made with; please report this")
        return _run(planned, state, inputs, leaves)

    def _trains(self) -> bool:
        """Evaluation is eager, unless the plan is for a model in evaluation mode."""
        if self.model.training:
            return True
        return any(not planned.joint.training for planned, _ in self._bound)

    def _plan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Planned:
        planned_inputs = self.schedule.origin.inputs
        if not self._bound and (not planned_inputs or input_signature(args, kwargs) == dict(planned_inputs)):
            return Planned.of(self.schedule, recapture(self.model, args, kwargs, self.schedule, self.loss))
        _log.warning(
            "inputs or model differ from what was planned (%s): planning once for them with the same budget of %s bytes",
            _describe(args, kwargs),
            f"{self.schedule.budget:,}",
        )
        schedule = self.replan(self.model, args, kwargs, self.schedule)
        live = remembered_capture(schedule)
        if live is None:
            raise RuntimeError("the new plan came without its capture; please report this")
        return Planned.of(schedule, live)


def _describe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{place}: {form}" for place, form in input_signature(args, kwargs).items())


def _run(planned: Planned, state: list[torch.Tensor], inputs: list[torch.Tensor], leaves: Sequence[Any]) -> Any:
    joint, wiring = planned.joint, planned.wiring
    owners = [
        (state[gradient.index] if gradient.owner == "parameter" else inputs[gradient.index]) for gradient in joint.gradients
    ]
    handed_back = {node: leaves[k] for node, k in zip(joint.input_nodes, joint.input_leaves, strict=True)}
    tensors = run(wiring, [*state, *inputs], owners)
    results = [
        leaf.constant if leaf.node is None else handed_back[leaf.node] if position is None else tensors[position]
        for leaf, position in zip(joint.outputs, wiring.program.outputs, strict=True)
    ]
    return joint.output_spec.unflatten(results)


def _wire(joint: Joint, program: Program) -> Wiring:
    n = 1 + max((p for p in program.outputs if p is not None), default=-1)
    differentiable = [False] * n
    incoming: list[list[tuple[IncomingForm, int | None]]] = [[] for _ in range(n)]
    names = _output_names(joint)
    output_names = [""] * n
    for leaf, position, name in zip(joint.outputs, program.outputs, names, strict=True):
        if position is not None:
            differentiable[position] = differentiable[position] or leaf.differentiable
            output_names[position] = output_names[position] or name
    for node, leaf_index, place in zip(joint.tangent_nodes, joint.tangent_outputs, program.tangents, strict=True):
        position = program.outputs[leaf_index]
        assert position is not None
        incoming[position].append((IncomingForm.of(node.meta["val"]), place))
    state_names = {
        node: f"{slot.kind} {slot.name}"
        for node, slot in zip((*joint.parameter_nodes, *joint.buffer_nodes), (*joint.parameters, *joint.buffers), strict=True)
    }
    input_names = {node: f"input {node.name}" for node in joint.input_nodes}
    return Wiring(
        program=program,
        differentiable=tuple(differentiable),
        incoming=tuple(map(tuple, incoming)),
        output_names=tuple(output_names),
        unchanged_names=tuple(
            f"output {names[behind]}" if isinstance(behind, int) else (state_names | input_names)[behind]
            for _, behind in program.unchanged
        ),
    )


def _output_names(joint: Joint) -> list[str]:
    """The place of each output leaf, as in "['logits']"."""
    numbered = joint.output_spec.unflatten(list(range(len(joint.outputs))))
    names = [f"number {k}" for k in range(len(joint.outputs))]
    try:
        paths = pytree.tree_flatten_with_path(numbered)[0]
    except ValueError:  # a container that was registered without the names of its entries
        return names
    for path, leaf in paths:
        if isinstance(leaf, int) and 0 <= leaf < len(names) and path:
            names[leaf] = pytree.keystr(path)
    return names
