"""Recording one training step: forward and backward run on fake tensors, and the trace holds what eager runs, in its order.

Autograd's own engine calls the operators, without decompositions, so a replay of the recording has eager's bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch

from remat_planner.tracer.errors import InputsDoNotFitError, PythonDrawError, RandomStateError
from remat_planner.tracer.graph_trace import detached, newest_node, recorded_graph, trace
from remat_planner.tracer.joint import Effects, ModuleState, Parts, PlaceSlot, TreeOfLeaves, flatten
from remat_planner.tracer.python_state import Change, Place, Roots, is_read_number
from remat_planner.tracer.record.autocast import without_autocast
from remat_planner.tracer.record.calls_below_dispatch import CallsBelowDispatch
from remat_planner.tracer.record.drawn_at import DrawnAt
from remat_planner.tracer.record.eager_masks import libraries_believe_eager
from remat_planner.tracer.record.effects import effects_of
from remat_planner.tracer.record.gradient_arrivals import edges_into, noting_arrivals, refuse_histories
from remat_planner.tracer.record.gradient_attributes import GradientAttributesRefused
from remat_planner.tracer.record.gradient_flow import FollowedGradients, noting_materialized_gradients
from remat_planner.tracer.record.outside_tensors import OutsideTensors
from remat_planner.tracer.record.provenance import Provenance
from remat_planner.tracer.record.random_state import random_state_kept
from remat_planner.tracer.record.recorder import Recorder
from remat_planner.tracer.record.recording import CapturedCall, Recording, Tangent
from remat_planner.tracer.record.returned_objects import refuse_tensors_inside
from remat_planner.tracer.record.sparse_tensors import stand_in
from remat_planner.tracer.record.user_code import run_backward, run_user_code
from remat_planner.tracer.record.value_guards import KnownValues
from remat_planner.tracer.record.values_in_c import values_readable
from remat_planner.tracer.record.watched_state import WatchedForward, watched_step
from remat_planner.tracer.refusals import (
    foreign_generator_error,
    python_draw_error,
    refuse_output_layouts,
    refuse_outputs,
    refuse_written_activations,
)
from remat_planner.tracer.torch_modules import stands_for
from remat_planner.tracer.torch_private import FakeTensorMode, single_threaded_backward, to_fake

_MORE_ATTEMPTS = 3
"""Recordings that may be lost to a draw of another thread's: only the states of the generators tell of a draw."""


@dataclass(frozen=True)
class _StandIns:
    """The fake tensors that stand for a call's parameters, buffers and inputs in one recording."""

    parameters: list[torch.Tensor]
    buffers: list[torch.Tensor]
    inputs: list[torch.Tensor]

    @property
    def all(self) -> list[torch.Tensor]:
        """Every stand-in."""
        return [*self.parameters, *self.buffers, *self.inputs]

    @property
    def differentiated(self) -> list[torch.Tensor]:
        """The parameters and inputs that get a gradient."""
        return list({id(t): t for t in (*self.parameters, *self.inputs) if t.requires_grad}.values())

    def with_one_for_same(self, first_places: Sequence[int]) -> _StandIns:
        """With one stand-in where inputs are one tensor, or a parameter or buffer."""
        stand_ins = (*self.inputs, *reversed((*self.parameters, *self.buffers)))  # a place below zero counts from the end
        return replace(self, inputs=[stand_ins[place] for place in first_places])

    def in_model(
        self, state: ModuleState, mode: FakeTensorMode
    ) -> tuple[dict[int, torch.Tensor], list[tuple[Place, torch.Tensor]]]:
        """The stand-in of each parameter and buffer, by the id of the real one; and those in other places."""
        originals, stand_ins = (*state.parameters, *state.buffers), (*self.parameters, *self.buffers)
        by_id = {id(original): stand_in for original, stand_in in zip(originals, stand_ins, strict=True)}
        replacement = {id(original): by_id[id(original)] for original in state.registered}
        dense = [(place, by_id[id(original)]) for place, original in state.places]
        sparse = [
            (place, stand_in(mode, Parts(form, tuple(self.buffers[first : first + form.number_of_parts]))))
            for place, form, first in state.sparse
        ]
        return replacement, [*dense, *sparse]

    def outside(self, state: ModuleState) -> dict[int, torch.Tensor]:
        """The real tensor of each that lies in Python state alone, by the id of the stand-in."""
        slots = zip(self.buffers, state.buffers, state.buffer_slots, strict=True)
        return {id(stand_in): original for stand_in, original, slot in slots if isinstance(slot, PlaceSlot)}

    def with_history(self, state: ModuleState) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The stand-ins, and the tensors themselves, of what requires a gradient in Python state, by name."""
        slots = zip(state.buffer_slots, self.buffers, state.buffers, strict=True)
        wanted = ((s, fake, real) for s, fake, real in slots if isinstance(s, PlaceSlot) and s.requires_grad)
        return {slot.name: (stand_in, original) for slot, stand_in, original in wanted}

    def known_values(self, call: CapturedCall) -> KnownValues:
        """The values that a forward may read: those of buffers and inputs, and what is computed from them."""
        known = KnownValues()
        for i, (fake, real) in enumerate(zip(self.buffers, call.state.buffers, strict=True)):
            known.add_leaf("buffer", i, fake, real)
        for i, (fake, real) in enumerate(zip(self.inputs, call.inputs, strict=True)):
            known.add_leaf("input", i, fake, real)
        return known

    def names(self, state: ModuleState) -> dict[int, str]:
        """What each one stands for in words, by its id."""
        slots = (*state.parameter_slots, *state.buffer_slots)
        named = {id(t): f"{slot.kind} {slot.name}" for t, slot in zip((*self.parameters, *self.buffers), slots, strict=True)}
        return {**{id(t): f"tensor input {i}" for i, t in enumerate(self.inputs)}, **named}

    def identities(self, call: CapturedCall) -> dict[int, int]:
        """The id of what each stands for, by its own."""
        originals = (*call.state.parameters, *call.state.buffers, *call.inputs)
        return {id(stand_in): id(original) for stand_in, original in zip(self.all, originals, strict=True)}

    def places(self) -> dict[int, tuple[str, int]]:
        """Kind and index of each stand-in, by its id."""
        kinds = (("parameter", self.parameters), ("buffer", self.buffers), ("input", self.inputs))
        return {id(tensor): (kind, i) for kind, tensors in kinds for i, tensor in enumerate(tensors)}


@dataclass(frozen=True)
class OutputForm:
    """How the leaves of a recorded forward form its output and what it leaves behind in Python state.

    Attributes:
        spec: of the output.
        returned: number of leaves of the output; the rest are of the effects.
        effects: changes of Python state.
        roots: where they are made.
        forward: puts Python state back.
    """

    spec: TreeOfLeaves
    returned: int
    effects: Effects
    roots: Roots
    forward: WatchedForward

    @property
    def in_arguments(self) -> list[int]:
        """The leaves that are left behind in an argument of the call."""
        ends = accumulate((effect.leaves for effect in self.effects.made), initial=self.returned)
        spans = zip(self.effects.made, ends, strict=False)
        return [i for effect, start in spans if effect.place.kind == "arguments" for i in range(start, start + effect.leaves)]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The output with ``leaves`` in it; Python state holds those of the effects until it is put back."""
        self.forward.put_back()
        self.effects.apply(self.roots, leaves[self.returned :])
        return self.spec.unflatten(leaves[: self.returned])


def record(
    call: CapturedCall,
    mode: FakeTensorMode,
    choose_tangents: Callable[[Any, list[Any], OutputForm], list[Tangent]] | None,
    outside: OutsideTensors,
    left_behind: Sequence[Change] | None = None,
) -> Recording:
    """Record one step of ``call``.

    ``choose_tangents(output, leaves, form)`` says at which output leaves gradients arrive; None records the forward alone.
    ``outside`` is told of the tensors that the step reads in Python state.
    ``left_behind`` are changes of Python state by an earlier forward, from which this one starts; None for the first.

    Raises:
        CaptureError: the step cannot be recorded; the subclasses say why.
    """

    def attempt() -> Recording:
        # A forward that seeds a generator leaves the same state each time: only from another one is that seen again.
        with random_state_kept():
            return _recorded(call, mode, choose_tangents, outside, left_behind)

    for _ in range(_MORE_ATTEMPTS):
        try:
            return attempt()
        except (PythonDrawError, RandomStateError) as error:
            if error.source or threading.active_count() == 1:
                break
    try:
        return attempt()
    except PythonDrawError as error:
        with DrawnAt() as drawn, suppress(Exception):  # once more, to find the line
            attempt()
        raise python_draw_error(error.part, drawn.source) from None


def _recorded(
    call: CapturedCall,
    mode: FakeTensorMode,
    choose_tangents: Callable[[Any, list[Any], OutputForm], list[Tangent]] | None,
    outside: OutsideTensors,
    left_behind: Sequence[Change] | None,
) -> Recording:
    state, originals = call.state, call.inputs
    fakes = [[to_fake(mode, t) for t in tensors] for tensors in (state.parameters, state.buffers, originals)]
    recorded: dict[str, Any] = {}

    def step(parameters: list[torch.Tensor], buffers: list[torch.Tensor], inputs: list[torch.Tensor]) -> Any:
        stand_ins = _StandIns(
            [
                stands_for(detached(p).requires_grad_(o.requires_grad), o)
                for p, o in zip(parameters, state.parameters, strict=True)
            ],
            [
                stands_for(detached(b).requires_grad_() if o.requires_grad else b, o)
                for b, o in zip(buffers, state.buffers, strict=True)
            ],
            [detached(t).requires_grad_(o.requires_grad) for t, o in zip(inputs, originals, strict=True)],
        ).with_one_for_same(call.same_inputs)
        known, provenance = stand_ins.known_values(call), Provenance(call.model)
        recorder = Recorder(mode, provenance, known, outside)
        wanted = stand_ins.differentiated
        in_model = stand_ins.in_model(state, mode)
        with (
            noting_arrivals(wanted) as arrivals,  # before the watch, which would take its hooks for the user's
            watched_step(call.model, *in_model) as hooks,
            libraries_believe_eager(),
            provenance.following(),
            ExitStack() as objects,
        ):
            args, kwargs, own_tensors = call.arguments(stand_ins.inputs, lambda parts: stand_in(mode, parts))
            objects.callback(own_tensors)
            forward = WatchedForward(
                call.model, args, kwargs, left_behind, outside.is_carried, own_tensors, stand_ins.identities(call)
            )
            outside.begin(lambda: forward.executed, state.buffers, stand_ins.buffers)
            names = stand_ins.names(state)
            below = CallsBelowDispatch(stand_ins.all, names, outside)
            of_gradients = GradientAttributesRefused(
                [*stand_ins.all, *state.parameters], [tensor for tensor in stand_ins.inputs if tensor.requires_grad]
            )
            with (
                forward.watching(),
                below.forward(forward.executed),
                noting_materialized_gradients(),
                mode,
                recorder,
                values_readable(recorder.values_of, recorder.numbers.item),
                of_gradients,
            ):
                try:
                    output = run_user_code(call.model, args, kwargs)
                except InputsDoNotFitError as error:
                    recorder.numbers.explain(error)
                    raise
            end = newest_node(recorded_graph()).name
            hooks.forward_is_over(forward.changes)
            try:
                of_gradients.refuse_changed_flags(names)
                calls = dict(provenance.calls)
                leaves, spec = flatten(output, forward.argument_objects, forward.was_there)
                returned = len(leaves)
                effects = effects_of(forward.changes, argument_objects=forward.argument_objects)
                leaves += effects.leaves
                recorder.numbers.refuse_others(leaves)
                forward.counted.refuse_used(output)
                forward.grown.refuse_used(output)
                numbers = {i: leaf.tensor for i, leaf in enumerate(leaves) if is_read_number(leaf)}
                leaves = [numbers.get(i, leaf) for i, leaf in enumerate(leaves)]
                outside.note(leaves)
                outside.end(forward.changes, stand_ins.outside(state))
                refuse_tensors_inside(leaves[:returned], forward.found)
                refuse_outputs(leaves)
                refuse_output_layouts(leaves)
                below.refuse_moved_state(recorder.moves)
                refuse_written_activations(state, stand_ins.buffers, stand_ins.inputs)
                tangents = []
                if choose_tangents is not None:
                    roots = Roots.of(call.model, args, kwargs)
                    tangents = choose_tangents(output, leaves, OutputForm(spec, returned, effects.effects, roots, forward))
                del output
            finally:
                forward.put_back()
            reached = [leaves[tangent.output] for tangent in tangents]
            nodes, arriving = _arriving_gradients(reached, tangents, mode)
            edges = edges_into(wanted, reached)
            refuse_histories(stand_ins.with_history(state), [*reached, *_with_gradient(leaves)])
            recorder.in_backward = True
            recorder.followed = followed = FollowedGradients(reached, arriving)
            gradients: list[torch.Tensor | None] = []
            if tangents:
                # Outside the caller's autocast, as PyTorch's documentation asks.
                with (
                    below.backward(reached, forward.watching_backward),
                    followed.following(),
                    mode,
                    recorder,
                    values_readable(recorder.values_of),
                    single_threaded_backward(),
                    without_autocast(),
                ):
                    gradients = run_backward(reached, wanted, arriving)
            below.refuse_moved_state(recorder.moves)
            _refuse_foreign_generators(recorder, forward)
            recorder.averages.refuse_unused()
        places = stand_ins.places()
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        inside = forward.argument_objects
        recorded.update(
            constants=[None if isinstance(leaf, torch.Tensor) or id(leaf) in inside else leaf for leaf in leaves],
            differentiable=tuple(i for i in tensors if leaves[i].requires_grad),
            output_spec=spec,
            tensor_outputs=tuple(tensors),
            numbers=frozenset(numbers),
            same_as={i: places[id(leaves[i])] for i in tensors if id(leaves[i]) in places},
            tangents=tuple(zip(nodes, tangents, strict=True)),
            operators=recorder.operators,
            arrivals=tuple(arrivals.order),
            arriving_strides=arrivals.strides,
            flow=followed.of_gradients(wanted),
            edges=edges,
            calls=calls,
            checkpointed=tuple(recorder.checkpointed),
            known=known,
            end=end,
            returned=returned,
            left_behind=effects.leaves,
            changes=forward.changes,
            executed=forward.executed,
            argument_objects=forward.argument_objects,
            argument_leaves={i: inside[id(leaf)] for i, leaf in enumerate(leaves) if id(leaf) in inside},
        )
        return [leaves[i] for i in tensors], gradients

    module = trace(step, *fakes)
    return Recording(module=module, **recorded)


def _with_gradient(leaves: Sequence[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def _refuse_foreign_generators(recorder: Recorder, forward: WatchedForward) -> None:
    """Refuse draws from generators that the planned calls would not find.

    Raises:
        RandomStateError: there are such draws.
    """
    for key, source in recorder.own_generators.items():
        if not forward.found_generator(key):
            raise foreign_generator_error(source)


def _arriving_gradients(
    outputs: list[torch.Tensor], tangents: list[Tangent], mode: FakeTensorMode
) -> tuple[list[str], list[torch.Tensor]]:
    """A fake gradient for each output, and the name of its graph node."""
    nodes, gradients = [], []
    with mode:
        for output, tangent in zip(outputs, tangents, strict=True):
            gradients.append(torch.empty_strided(output.shape, tangent.stride, dtype=output.dtype, device=output.device))
            nodes.append(newest_node(recorded_graph()).name)
    return nodes, gradients
