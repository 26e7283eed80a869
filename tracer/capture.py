"""One training step of a module, captured on fake tensors as a joint graph of forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import CapturedLoss, Gradient, Joint, OutputLeaf, plain_attributes, state_of
from remat_planner.tracer.passes import annotate, contributions, laid_out_as_owners, make_functional, refuse_in_place, simplify
from remat_planner.tracer.record import (
    Call,
    LossChooser,
    Recording,
    ambient_autocast,
    hooks_of,
    lost_from_step_to_step,
    random_state_kept,
    record,
    without_autocast,
)
from remat_planner.tracer.refusals import (
    refuse_captured_state,
    refuse_frozen,
    refuse_hidden_tensors,
    refuse_misplaced_arguments,
    refuse_python_state,
    refuse_wrapped,
)
from remat_planner.tracer.torch_private import (
    FakeTensorMode,
    accepting_real_tensors,
    errors_not_logged,
    fake_mode_of,
    grouped_products_of_any_dtype,
    laid_out_as_on_a_cpu,
    new_fake_mode,
    storage_key,
    to_fake,
)


@dataclass(frozen=True)
class Recorded:
    """What eager runs, before anything is made functional or simplified."""

    call: Call
    mode: FakeTensorMode
    recording: Recording
    loss: CapturedLoss | None
    autocast: Mapping[str, str]


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> Joint:
    """Capture one training step of ``model(*args, **kwargs)``: forward, the gradients that its loss sends, and backward.

    Nothing is computed and nothing allocated but fake tensors; ``model``, its gradients and the random generators are left as
    they were. Parameters, buffers and inputs may be fake themselves.

    Args:
        model: in the mode in which it trains.
        args: positional inputs.
        kwargs: named inputs.
        loss: output -> scalar, which the caller computes itself when training. By default ``output.loss``, ``output["loss"]``,
            or the output if it is a scalar; else every differentiable output gets a gradient.

    Raises:
        CaptureError: the step cannot be captured; the subclasses say why (``tracer.errors``).
    """
    try:
        return assemble(record_step(model, args, kwargs, loss))
    except BaseException:
        # An ambient autocast remembers the casts of parameters: those of one that the code brought along would be fakes.
        torch.clear_autocast_cache()
        raise


def assemble(recorded: Recorded) -> Joint:
    """The second half of ``capture``: the recorded step as a pure, simplified and annotated graph."""
    call, mode, recording = recorded.call, recorded.mode, recorded.recording
    with _capturing(mode), without_autocast():  # the casts are recorded: run again under it, their readers would cast once more
        module = make_functional(recording, mode, [to_fake(mode, t) for t in call.tensors])
    graph = module.graph
    parameter_nodes, buffer_nodes, input_nodes, tangent_nodes = _split(
        [node for node in graph.nodes if node.op == "placeholder"],
        [len(call.state.parameters), len(call.state.buffers), len(call.inputs), len(recording.tangents)],
    )
    by_kind = {"parameter": parameter_nodes, "buffer": buffer_nodes, "input": input_nodes}
    returned = pytree.tree_leaves(graph.output_node().args[0], is_leaf=lambda x: x is None)
    n_outputs = len(recording.tensor_outputs)
    own = [
        by_kind[recording.same_as[i][0]][recording.same_as[i][1]] if i in recording.same_as else node
        for i, node in zip(recording.tensor_outputs, returned[:n_outputs], strict=True)
    ]
    gradients = laid_out_as_owners(
        graph,
        returned[n_outputs:],
        [(call.state.parameters if kind == "parameter" else call.inputs)[i] for kind, i in call.differentiated],
        outside=[*own, *parameter_nodes, *buffer_nodes, *input_nodes, *tangent_nodes],
    )
    graph.output_node().args = ((tuple(own), tuple(gradients)),)
    sums = [node for g, edges in zip(gradients, recording.edges, strict=True) for node in contributions(g, edges)[1]]
    simplify(graph, keep=[*own, *sums])  # of equal gradients autograd makes one each
    own, gradients = _returned(graph)
    refuse_in_place(graph)
    names = {
        **{node: f"parameter {slot.name}" for node, slot in zip(parameter_nodes, call.state.parameter_slots, strict=True)},
        **{node: f"buffer {slot.name}" for node, slot in zip(buffer_nodes, call.state.buffer_slots, strict=True)},
        **{node: f"input {i}" for i, node in enumerate(input_nodes)},
    }
    annotate(graph, tangent_nodes, own, names)
    refuse_captured_state(module, call.state, recording.effects.reassigned)
    module.recompile()
    node_of = dict(zip(recording.tensor_outputs, own, strict=True))
    return Joint(
        model=call.model,
        graph=module,
        ops=tuple(node for node in graph.nodes if node.op == "call_function"),
        parameters=call.state.parameter_slots,
        buffers=call.state.buffer_slots,
        input_spec=call.spec,
        input_leaves=call.input_leaves,
        constant_leaves=tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in call.leaves),
        output_spec=recording.output_spec,
        outputs=tuple(
            OutputLeaf(node_of.get(i), constant, i in recording.differentiable)
            for i, constant in enumerate(recording.constants)
        ),
        parameter_nodes=tuple(parameter_nodes),
        buffer_nodes=tuple(buffer_nodes),
        input_nodes=tuple(input_nodes),
        tangent_nodes=tuple(tangent_nodes),
        tangent_outputs=tuple(tangent.output for _, tangent in recording.tangents),
        gradients=tuple(
            Gradient(kind, i, node, *contributions(node, edges))
            for (kind, i), node, edges in zip(call.differentiated, gradients, recording.edges, strict=True)
        ),
        loss=recorded.loss,
        constants=_constant_bytes(call, module),
        training=call.model.training,
        autocast=recorded.autocast,
        guards=tuple(recording.known.guards),
        arrivals=recording.arrivals,
        warnings=tuple(recording.effects.notes),
        hooks=hooks_of(call.model),
        attributes=plain_attributes(call.model),
        operators=tuple(recording.operators),
        calls=recording.calls,
    )


def record_step(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    loss: Callable[[Any], torch.Tensor] | None,
) -> Recorded:
    """The first half of ``capture``: run the step on fake tensors and write down what eager runs."""
    refuse_wrapped(model)
    state = state_of(model)
    refuse_frozen(model, state)
    refuse_misplaced_arguments(args, kwargs)
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
    refuse_hidden_tensors(leaves)
    call = Call(model, state, tuple(leaves), spec)
    mode = fake_mode_of(call.tensors) or new_fake_mode()
    chooser = LossChooser(mode, loss)
    with _capturing(mode):
        recording = record(call, mode, chooser.choose)
        refuse_python_state(lost_from_step_to_step(recording, lambda: record(call, mode, LossChooser(mode, loss).choose)))
    return Recorded(call, mode, recording, chooser.captured, ambient_autocast())


@contextmanager
def _capturing(mode: FakeTensorMode) -> Iterator[None]:
    fakes = (accepting_real_tensors(mode), grouped_products_of_any_dtype(), laid_out_as_on_a_cpu(mode), errors_not_logged())
    with fakes[0], fakes[1], fakes[2], fakes[3], random_state_kept(), torch.enable_grad():
        yield


def _returned(graph: fx.Graph) -> tuple[list[fx.Node], list[fx.Node | None]]:
    """The nodes of the tensor outputs and of the gradients, after the graph's rewriting."""
    pair: Any = graph.output_node().args[0]
    return list(pair[0]), list(pair[1])


def _split(items: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
    parts, start = [], 0
    for length in lengths:
        parts.append(list(items[start : start + length]))
        start += length
    return parts


def _constant_bytes(call: Call, module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Bytes of the storages that are there before the step: each once, under the first kind that it is met as."""
    attributes = [getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"]
    kinds: dict[str, Sequence[torch.Tensor]] = {
        "parameters": call.state.parameters,
        "buffers": call.state.buffers,
        "inputs": call.inputs,
        "constants": attributes,
    }
    seen: set[int] = set()
    counted: dict[str, tuple[int, ...]] = {}
    for kind, tensors in kinds.items():
        fresh = {storage_key(t): t.untyped_storage().nbytes() for t in tensors if storage_key(t) not in seen}
        seen |= fresh.keys()
        counted[kind] = tuple(fresh.values())
    return counted if counted["constants"] else {kind: sizes for kind, sizes in counted.items() if kind != "constants"}
