"""Capturing one training step of a module on fake tensors, as a joint graph of forward and backward.

``record_step`` runs the step and writes down what eager runs; ``assemble`` makes a functional, simplified and annotated graph
of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from remat_planner.tracer.functions import result_by_example
from remat_planner.tracer.garbage import garbage_left
from remat_planner.tracer.joint import (
    CapturedLoss,
    Gradient,
    Joint,
    OutputLeaf,
    RecordedForward,
    flatten_inputs,
    plain,
    state_of,
)
from remat_planner.tracer.passes import (
    Placeholders,
    annotate,
    contributions,
    copy_small_first_terms,
    keep_apart,
    make_functional,
    mark_sums_of_views,
    return_as_autograd,
    returned_by,
    simplify,
    undo_of,
    updated_placeholders,
)
from remat_planner.tracer.python_state import PythonReads, Roots, observation_suspended
from remat_planner.tracer.record import (
    CapturedCall,
    FoundFunctions,
    LossChooser,
    OpaqueFunctions,
    OutsideTensors,
    RecordedEffects,
    Recording,
    Switches,
    ambient_autocast,
    eager_gradients,
    effects_from_step_to_step,
    forward_now,
    hooks_of,
    loss_of_step,
    others_can_follow,
    planned_forward,
    random_state_kept,
    record,
    refuse_surroundings,
    refuse_tensor_keys,
    shown_warnings_kept,
    switches,
    without_autocast,
)
from remat_planner.tracer.refusals import (
    refuse_call,
    refuse_constants,
    refuse_graph,
    refuse_model,
    refuse_python_state,
    refuse_without_backward,
)
from remat_planner.tracer.torch_higher_order import loops_differentiated
from remat_planner.tracer.torch_nested import jagged_of_fakes
from remat_planner.tracer.torch_private import (
    FakeTensorMode,
    accepting_real_tensors,
    errors_not_logged,
    fake_mode_of,
    fakes_by_example,
    forget_originals,
    grouped_products_of_any_dtype,
    new_fake_mode,
    storage_key,
    without_addresses,
)
from remat_planner.tracer.torch_private_layouts import laid_out_as_real
from remat_planner.tracer.torch_surroundings import without_bystanders
from remat_planner.tracer.torch_values import sized_results_given

_CAPTURING = threading.RLock()
"""Threads capture one after the other: meanwhile torch's own functions are watched, which all threads share."""


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[..., torch.Tensor] | None = None,
    mode: FakeTensorMode | None = None,
    once: bool = False,
) -> Joint:
    """Capture one training step of ``model(*args, **kwargs)``: the forward, the gradients that its loss sends, the backward.

    Only fake tensors are computed and allocated; ``model``, its gradients and the random generators stay as they were.
    Parameters, buffers and inputs may be fake themselves.

    Args:
        model: in the mode in which it trains.
        args: positional inputs.
        kwargs: named inputs.
        loss: output -> scalar, or (output, batch) -> scalar (``loss_of_step``), which the caller computes itself when
            training. By default ``output.loss``, ``output["loss"]``, or the output if it is a scalar; else every
            differentiable output gets a gradient.
        mode: of the fakes; None for a new one.
        once: do not record a second forward to compare it with the first, unless the first leaves something in Python state;
            for a caller that compares the capture with another one of the same model.

    Raises:
        CaptureError: the step cannot be captured; the subclasses say why (``tracer.errors``).
    """
    try:
        with _CAPTURING, observation_suspended(), garbage_left():
            recorded = record_step(model, args, kwargs, loss, mode, once=once)
            joint = assemble(recorded)
            if fake_mode_of(recorded.call.tensors) is None:
                forget_originals(recorded.mode)
            return joint
    except BaseException:
        # An ambient autocast caches the casts of parameters, and an aborted recording leaves casts that are fakes there.
        torch.clear_autocast_cache()
        raise


@dataclass(frozen=True)
class RecordedStep:
    """What eager runs, before it is made functional and simplified.

    Attributes:
        call: the model and its inputs.
        mode: of the fake tensors.
        recording: the operators that ran.
        loss: the caller's loss; None where the caller passes none.
        autocast: what the ambient ``torch.autocast`` casts to, by device type.
        switches: the settings of torch in which it ran.
        effects: what the forward leaves behind in Python state.
        reads: the Python state that the forward can read.
        forward: the forward, to compare later recordings with.
    """

    call: CapturedCall
    mode: FakeTensorMode
    recording: Recording
    loss: CapturedLoss | None
    autocast: Mapping[str, str]
    switches: Switches
    effects: RecordedEffects
    reads: PythonReads
    forward: RecordedForward


def record_step(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    loss: Callable[..., torch.Tensor] | None,
    mode: FakeTensorMode | None = None,
    *,
    once: bool = False,
) -> RecordedStep:
    """The first half of ``capture``, with its arguments and errors; on fakes of ``mode`` where there are no others."""
    refuse_model(model)
    refuse_call(args, kwargs)
    leaves, tree = flatten_inputs(tuple(args), kwargs or {})
    leaves = [plain(leaf) for leaf in leaves]
    refuse_without_backward(model, leaves)
    refuse_surroundings(model, leaves)
    call = plain_call = CapturedCall(model, state_of(model), tuple(leaves), tree)
    mode = fake_mode_of(call.tensors) or mode or new_fake_mode()
    chooser = LossChooser(mode, loss_of_step(loss, tuple(args), dict(kwargs or {})))
    with _capturing(mode):
        outside = OutsideTensors(call)

        def recorded_twice(call: CapturedCall) -> tuple[Recording, RecordedEffects, FoundFunctions]:
            functions = OpaqueFunctions(call, mode)
            first = functions.recorded(lambda: record(call, mode, chooser.choose, outside))

            def again() -> Recording:
                return functions.recorded(lambda: record(call, mode, None, outside, first.changes))

            effects = effects_from_step_to_step(
                first,
                None if once and not first.changes else again,
                lambda: others_can_follow(plain_call, first, mode),
            )
            return first, effects, functions.found

        recording, effects, functions = outside.recorded(recorded_twice)
        refuse_constants(outside.constants)
        call, reads = outside.call, outside.reads(recording.executed)
        refuse_tensor_keys(reads.holders(model), call.state.registered)
        inputs, constants = call.state.unregistered, outside.constants
        reads = reads.found_in(model, effects.written, inputs, constants, outside.has_constant(), effects.written_in)
        forward = planned_forward(recording, effects, functions, outside.places)
    return RecordedStep(call, mode, recording, chooser.captured, ambient_autocast(), switches(), effects, reads, forward)


def record_forward(joint: Joint, like: RecordedForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RecordedForward:
    """Record the forward of ``joint.model`` on these inputs, alone and as its Python code is now, to compare it with ``like``.

    Tensors in Python state count as buffers where they do in ``like``, and caches that it fills are empty.

    Raises:
        CaptureError: it cannot be recorded.
    """
    leaves, tree = flatten_inputs(args, kwargs)
    mode = new_fake_mode()
    outside = OutsideTensors(CapturedCall(joint.model, state_of(joint.model), tuple(map(plain, leaves)), tree))
    roots = Roots.of(joint.model, args, kwargs)
    empty = like.emptied(roots)

    def recorded(call: CapturedCall) -> Recording:
        functions = OpaqueFunctions(call, mode, like.functions)
        return functions.recorded(lambda: record(call, mode, None, outside, empty))

    try:
        with _CAPTURING, shown_warnings_kept(), _capturing(mode):
            recording = outside.recorded_as(like.places, roots, recorded)
    finally:
        forget_originals(mode)
    return forward_now(recording, joint.effects.keys | dict(joint.reads.written))


def assemble(recorded: RecordedStep) -> Joint:
    """The second half of ``capture``: from the recorded step to the joint graph.

    Raises:
        CaptureError: as ``capture``.
    """
    call, mode, recording = recorded.call, recorded.mode, recorded.recording
    with _capturing(mode), without_autocast():  # the casts are recorded: under autocast their readers would cast once more
        module = make_functional(recording, mode)
    graph = module.graph
    placeholders = Placeholders.of(graph, call)
    return_as_autograd(graph, placeholders, call, recording)
    outputs, gradients = returned_by(graph)
    keep_apart(graph, recording)
    mark_sums_of_views(graph)
    copy_small_first_terms(graph, gradients, recording.edges)
    sums = [node for g, edges in zip(gradients, recording.edges, strict=True) for node in contributions(g, edges)[1]]
    # Autograd makes one gradient for each owner, equal ones too.
    simplify(graph, keep=[*outputs, *sums], own_memory=[node for node in (*outputs, *gradients) if node is not None])
    outputs, gradients = returned_by(graph)
    refuse_graph(module, call.state, recorded.effects.reassigned)
    in_words = placeholders.in_words(call.state)
    annotate(graph, placeholders.tangents, outputs, in_words)
    module.recompile()
    node_of_leaf = dict(zip(recording.tensor_outputs, outputs, strict=True))
    kept = _kept_leaves(recording, recorded.effects)
    return Joint(
        model=call.model,
        graph=module,
        ops=tuple(node for node in graph.nodes if node.op == "call_function"),
        parameters=call.state.parameter_slots,
        buffers=call.state.buffer_slots,
        input_tree=call.tree,
        input_leaves=call.input_leaves,
        constant_leaves=call.constant_leaves,
        output_spec=recording.output_spec,
        outputs=tuple(
            OutputLeaf(
                node=node_of_leaf.get(i),
                constant=recording.constants[i],
                differentiable=i in recording.differentiable,
                place=recording.argument_leaves.get(i),
                is_number=i in recording.numbers,
            )
            for i in kept
        ),
        parameter_nodes=tuple(placeholders.parameters),
        buffer_nodes=tuple(placeholders.buffers),
        input_nodes=tuple(placeholders.inputs),
        tangent_nodes=tuple(placeholders.tangents),
        tangent_outputs=tuple(kept.index(tangent.output) for _, tangent in recording.tangents),
        gradients=tuple(
            Gradient(kind, i, node, *contributions(node, edges))
            for (kind, i), node, edges in zip(call.differentiated, gradients, recording.edges, strict=True)
        ),
        loss=_loss_of_kept(recorded, kept),
        constants=_constant_bytes(call, module),
        training=call.model.training,
        autocast=recorded.autocast,
        switches=recorded.switches,
        guards=recording.known.guards(),
        arrivals=recording.arrivals,
        flow=recording.flow,
        hooks=hooks_of(call.model),
        reads=recorded.reads,
        effects=recorded.effects.effects,
        updated=tuple(in_words[node] for node in updated_placeholders(graph.nodes)),
        returned=recording.returned,
        same_inputs=call.same_inputs,
        forward=recorded.forward,
        argument_states=tuple(recorded.reads.argument_state(leaf) for leaf in call.leaves),
        operators=tuple(recording.operators),
        calls=recording.calls,
        checkpointed=recording.checkpointed,
        undo=undo_of(graph, [*placeholders.parameters, *placeholders.buffers, *placeholders.inputs]),
    )


def _kept_leaves(recording: Recording, effects: RecordedEffects) -> list[int]:
    """Indices of the recorded leaves that a planned call returns or leaves behind: those of the output, and of ``effects``.

    The rest are of entries that cannot be left behind.

    Raises:
        PythonStateError: an entry cannot be left behind, since the first forward alone made it; or a gradient arrives there.
    """
    place = {id(leaf): recording.returned + i for i, leaf in reversed(list(enumerate(recording.left_behind)))}
    leaves = iter(effects.leaves)
    of_effects = [(effect.label, next(leaves)) for effect in effects.effects.made for _ in range(effect.leaves)]
    refuse_python_state(list(dict.fromkeys(label for label, leaf in of_effects if id(leaf) not in place)))
    kept = [*range(recording.returned), *(place[id(leaf)] for _, leaf in of_effects)]
    if not {tangent.output for _, tangent in recording.tangents} <= set(kept):
        refuse_python_state(effects.lost)
    return kept


def _loss_of_kept(recorded: RecordedStep, kept: Sequence[int]) -> CapturedLoss | None:
    """The caller's loss, with its placeholders of the ``kept`` leaves.

    Raises:
        PythonStateError: it reads an entry that cannot be left behind.
    """
    loss = recorded.loss
    if loss is None:
        return None
    placeholder_of = dict(zip(recorded.recording.tensor_outputs, loss.outputs, strict=True))
    dropped = [placeholder for i, placeholder in placeholder_of.items() if i not in kept]
    if any(detached.users for placeholder in dropped for detached in placeholder.users):  # the loss begins with detaching all
        refuse_python_state(recorded.effects.lost)
    return replace(loss, outputs=tuple(placeholder_of[i] for i in kept if i in placeholder_of))


@contextmanager
def _capturing(mode: FakeTensorMode) -> Iterator[None]:
    """Make fakes behave as the real tensors do, keep the random state, and let gradients be recorded."""
    contexts = (
        without_bystanders(),
        torch.autograd.set_detect_anomaly(False),  # it reads the gradients' values
        accepting_real_tensors(mode),
        without_addresses(mode),
        grouped_products_of_any_dtype(),
        loops_differentiated(mode),
        jagged_of_fakes(mode),
        laid_out_as_real(mode),
        fakes_by_example(mode, result_by_example),
        sized_results_given(mode),
        eager_gradients(),
        errors_not_logged(),
        random_state_kept(),
        torch.enable_grad(),
    )
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def _constant_bytes(call: CapturedCall, module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Bytes of the storages that are resident before the step: each once, under the first kind in which it occurs.

    A batch that is given twice counts twice, since other steps may have two.
    """
    kinds: dict[str, Sequence[torch.Tensor]] = {
        "parameters": call.state.parameters,
        "buffers": call.state.buffers,
        "inputs": call.inputs,
        "constants": [getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"],
    }
    counted: set[int] = set()
    sizes: dict[str, tuple[int, ...]] = {}
    for kind, tensors in kinds.items():
        fresh = {storage_key(t): t.untyped_storage().nbytes() for t in tensors if storage_key(t) not in counted}
        counted |= fresh.keys()
        if fresh or kind != "constants":
            sizes[kind] = tuple(fresh.values())
    again = [t for i, (t, first) in enumerate(zip(call.inputs, call.same_inputs, strict=True)) if 0 <= first != i]
    sizes["inputs"] += tuple(t.untyped_storage().nbytes() for t in again if not t.requires_grad)
    return sizes
