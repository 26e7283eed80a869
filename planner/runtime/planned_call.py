"""What a planned module does when it is called: find the program for these inputs, or plan again, and run it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.codegen import emit
from remat_planner.planner.compile import CompiledParts, compiled_program, compiler_named
from remat_planner.planner.distributed import is_sharded, others_wait
from remat_planner.planner.errors import InfeasibleBudgetError, ShardedError, TransformError
from remat_planner.planner.formatting import format_inputs
from remat_planner.planner.planning import (
    BoundSignature,
    Step,
    input_signature,
    mode_signature,
    remember_capture,
    remembered_capture,
    settings_of,
)
from remat_planner.planner.runtime.autocast_cache import cache_life, shared_casts
from remat_planner.planner.runtime.autograd import run
from remat_planner.planner.runtime.recapture import recapture
from remat_planner.planner.runtime.wiring import Wiring, wire
from remat_planner.planner.torch_private import inside_transform
from remat_planner.schedules import Origin, Schedule, StaleScheduleError
from remat_planner.tracer import capture
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.record import ambient_autocast, same_graph

_log = logging.getLogger("remat_planner")
# Programs kept for different inputs; the one that was not used for longest goes first.
_MOST_PROGRAMS = 32
_MOST_MODES = 4  # named in a message

Replan = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Schedule], Schedule]
"""``replan(model, args, kwargs, like)``: a schedule for other inputs, planned as ``like`` was and with the same budget."""


@dataclass(frozen=True)
class Planned:
    """A schedule together with the capture that its ops are nodes of, wired to run. Of no model in particular."""

    schedule: Schedule
    joint: Joint
    wiring: Wiring
    compiled: CompiledParts | None = None

    @cached_property
    def shares_casts(self) -> bool:
        """Whether another call under the same autocast would share casts of parameters with this one."""
        return bool(shared_casts(self.joint))

    @classmethod
    def of(cls, schedule: Schedule, joint: Joint, compiler: str | None = None) -> Planned:
        """Emit the program, and have it compiled where there is a compiler.

        Raises:
            schedules.InvalidScheduleError: the steps would not give eager's bits.
            CompilerError: the compiler cannot compile it.
        """
        program = emit(joint, schedule.graph, schedule.steps)
        if compiler is None:
            return cls(schedule, joint, wire(joint, program))
        program, parts = compiled_program(program, compiler_named(compiler))
        _log.info("%s", parts)
        return cls(schedule, joint, wire(joint, program), parts)


def not_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as ``torch.compile`` leaves it alone: what runs by a schedule is run as it is in a model compiled around it.

    Traced, it would be cut up and compiled, and what is drawn and repeated would be the compiler's to say.
    """
    uncompiled: Callable[..., Any] = torch.compiler.disable
    return uncompiled(function, reason="what has a schedule runs by it, and is not compiled")


class PlannedCall:
    """The programs of one planned model, and the choice between them.

    Args:
        model: the model itself, which stays eager.
        schedule: the plan, with the companions that it has for other forms of input.
        loss: the loss that it was planned with, where it is not the default one; for a capture that has to be made here.
        replan: makes a schedule for inputs of another form.
        compiler: what compiles the programs; None for PyTorch's own kernels.
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
        self._bound: list[tuple[Planned, BoundSignature]] = []
        self._others_wait = others_wait()
        for form in reversed(schedule.forms):
            joint = remembered_capture(form)
            if joint is not None and joint.model is model:
                self.add(Planned.of(form, joint, compiler))

    def add(self, planned: Planned) -> None:
        """Make a program known, as the one to try first.

        Raises:
            ShardedError: the model's parameters are DTensors now.
        """
        self._refuse_sharded()
        self._bound.insert(0, (planned, BoundSignature(planned.joint, self.model)))
        del self._bound[max(_MOST_PROGRAMS, len(self.schedule.forms)) :]

    def on(self, model: nn.Module) -> PlannedCall:
        """The same programs on a copy of the model, holding nothing of this one."""
        schedule = replace(self.schedule)
        copied = PlannedCall(model, schedule, loss=self.loss, replan=self.replan, compiler=self.compiler)
        copied._others_wait = self._others_wait
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
        if torch.compiler.is_dynamo_compiling():
            return not_traced(self._call)(args, kwargs)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled() or not self._trains():
            return self.model(*args, **kwargs)
        if inside_transform():
            raise TransformError(
                "a planned module is called inside of a torch.func transform (grad, vmap, jvp), which cannot see through its "
                "own backward: call the model without its plan there, remat_planner.remove_schedule(model)"
            )
        if others_wait() is not self._others_wait:
            self._emit_again()
        leaves, spec = pytree.tree_flatten((args, kwargs))
        autocast = ambient_autocast()
        otherwise_held: list[tuple[int, list[torch.Tensor], list[torch.Tensor]]] = []
        for position, (planned, signature) in enumerate(self._bound):
            inputs = signature.inputs(leaves, spec)  # of many programs most are for other inputs, which is soon seen
            state = None if inputs is None else signature.state()
            if state is not None and inputs is not None and signature.holds(state, inputs, autocast):
                if signature.changed_attributes():
                    otherwise_held.append((position, state, inputs))
                    continue
                if position:
                    self._bound.insert(0, self._bound.pop(position))
                return _run(planned, state, inputs, leaves)
        if otherwise_held:
            joint = self._captured_again(self._bound[otherwise_held[0][0]][1], args, kwargs)
            for position, state, inputs in otherwise_held:
                planned, signature = self._bound[position]
                if same_graph(joint.graph.graph, planned.joint.graph.graph):
                    signature.accept_attributes()
                    return _run(planned, state, inputs, leaves)
        if not any(t.requires_grad for t in (*self.model.parameters(), *leaves) if isinstance(t, torch.Tensor)):
            return self.model(*args, **kwargs)  # all frozen, as a reference model is: no backward, nothing to plan
        self.add(self._plan(args, kwargs, autocast))
        planned, signature = self._bound[0]
        state, inputs = signature.state(), signature.inputs(leaves, spec)
        if state is None or inputs is None or not signature.holds(state, inputs, autocast):
            raise RuntimeError("the capture just made does not hold for the inputs it was made with; please report this")
        return _run(planned, state, inputs, leaves)

    def _emit_again(self) -> None:
        """A process group was made (or destroyed) after the programs were: they hand their gradients over in another way."""
        self._others_wait = others_wait()
        self._bound = [
            (Planned.of(planned.schedule, planned.joint, self.compiler), signature) for planned, signature in self._bound
        ]

    def _captured_again(self, signature: BoundSignature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Joint:
        """The step with the Python values that are in the model's attributes now, to see whether they matter to it."""
        _log.warning(
            "changed since the model was captured, which is done once more to see what that does: %s",
            ", ".join(signature.changed_attributes()),
        )
        return capture(self.model, args, kwargs, loss=self.loss)

    def _trains(self) -> bool:
        """Evaluation is eager, unless the plan is for a model in evaluation mode."""
        if self.model.training:
            return True
        return any("" in form.origin.modes for form in self.schedule.forms) or any(
            not planned.joint.training for planned, _ in self._bound
        )

    def _refuse_sharded(self) -> None:
        divided = [name for name, p in self.model.named_parameters() if is_sharded(p)]
        if divided:
            raise ShardedError(
                f"{divided[0]} is a DTensor where the planned {type(self.model).__name__} runs: it was planned with all of its "
                "parameters in one piece, and hooks of the modules inside of it, which would gather them, do not run. After "
                "fully_shard on modules inside of a model, plan it by regions, one for each of those modules or inside of it: "
                'remat_planner.plan(model, ..., regions="model.layers.*"). Tensor-parallel modules cannot be planned',
                names=tuple(divided),
            )

    def _plan(self, args: tuple[Any, ...], kwargs: dict[str, Any], autocast: Mapping[str, str]) -> Planned:
        self._refuse_sharded()
        called = Origin(inputs=input_signature(args, kwargs), modes=mode_signature(self.model), autocast=autocast)
        stale: StaleScheduleError | None = None
        for form in self._not_captured(called):
            try:
                return Planned.of(form, recapture(self.model, args, kwargs, form, self.loss), self.compiler)
            except StaleScheduleError as error:
                stale = stale or error
        if stale is not None and not self._bound:
            raise stale
        _log.warning(
            "inputs or model differ from what was planned (%s): planning once for them with the same budget of %s bytes",
            _describe(called),
            f"{self.schedule.budget:,}",
        )
        try:
            schedule = self.replan(self.model, args, kwargs, self.schedule)
        except InfeasibleBudgetError as error:
            raise error.of_form(called.inputs) from None
        live = remembered_capture(schedule)
        if live is None:
            raise RuntimeError("the new plan came without its capture; please report this")
        return Planned.of(schedule, live, self.compiler)

    def _not_captured(self, called: Origin) -> list[Schedule]:
        """The schedules for a call like this one that were loaded, and have no program yet."""
        there = {id(planned.schedule) for planned, _ in self._bound}
        return [
            form
            for form in self.schedule.forms
            if id(form) not in there
            and (
                not form.origin.inputs  # made by hand
                or (form.origin.inputs, form.origin.modes, form.origin.autocast)
                == (called.inputs, called.modes, called.autocast)
            )
        ]


def _describe(called: Origin) -> str:
    modes = [f"{name or 'the model'} in {mode} mode" for name, mode in called.modes.items()]
    if len(modes) > _MOST_MODES:
        modes[_MOST_MODES - 1 :] = [f"{len(modes) - _MOST_MODES + 1} more modules in another mode than the one around them"]
    autocast = [f"autocast to {dtype} on {device}" for device, dtype in called.autocast.items()]
    return ", ".join([format_inputs(called.inputs), *modes, *autocast])


def _run(planned: Planned, state: list[torch.Tensor], inputs: list[torch.Tensor], leaves: Sequence[Any]) -> Any:
    joint, wiring = planned.joint, planned.wiring
    owners = [
        (state[gradient.index] if gradient.owner == "parameter" else inputs[gradient.index]) for gradient in joint.gradients
    ]
    handed_back = {node: leaves[k] for node, k in zip(joint.input_nodes, joint.input_leaves, strict=True)}
    tensors = run(wiring, [*state, *inputs], owners, _refusal_of_shared_casts(planned))
    results = [
        leaf.constant if leaf.node is None else handed_back[leaf.node] if position is None else tensors[position]
        for leaf, position in zip(joint.outputs, wiring.program.outputs, strict=True)
    ]
    return joint.output_spec.unflatten(results)


def _refusal_of_shared_casts(planned: Planned) -> Callable[[], None] | None:
    if not planned.shares_casts:
        return None
    life = cache_life(next(iter(planned.joint.autocast)))
    return lambda: life.refuse_another(planned.joint.model)
