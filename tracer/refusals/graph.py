"""Refusals after the recording: what the step would lose from one call to the next, and what a pure graph cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx

from remat_planner.tracer.errors import ModelNotSupportedError, PythonStateError, UnsupportedOperatorError
from remat_planner.tracer.joint import ModuleState
from remat_planner.tracer.operators import written_arguments
from remat_planner.tracer.refusals.layouts import can_be_planned
from remat_planner.tracer.refusals.recording import reassigned_error

_MOST_NAMES = 4


def refuse_python_state(names: Sequence[str]) -> None:
    """Refuse a forward that changes the Python attributes ``names`` from step to step.

    Raises:
        PythonStateError: ``names`` is not empty.
    """
    if names:
        raise python_state_error(names)


def python_state_error(names: Sequence[str]) -> PythonStateError:
    """For Python state that the forward changes from step to step."""
    return PythonStateError(
        f"the forward changes Python state from step to step: {', '.join(names)}. A captured step would keep the values "
        "that they had when planned. Keep the state in a buffer that is updated in place (register_buffer, "
        "`self.count.add_(1)`), detach tensors where they are kept (`self.state = state.detach()`), or change it outside "
        "of the forward; where it is filled only once (a cache, a bank of fixed length), run the model until it is before "
        "planning",
        names=tuple(names),
    )


def refuse_constants(constants: Iterable[torch.Tensor]) -> None:
    """Refuse tensors besides parameters, buffers and inputs that a graph cannot hold.

    Raises:
        ModelNotSupportedError: one is nested, or in a layout of a library's own.
    """
    for constant in constants:
        if not can_be_planned(constant):
            raise ModelNotSupportedError(
                "the forward reads a tensor that is no input and is nested, quantized or in a layout of a library's own "
                f"({constant.layout}, {constant.dtype}). Make it dense (to_dense()), or plan the modules without it by regions "
                "(remat_planner.plan(model, ..., regions=...))",
                kind=str(constant.layout),
            )


def refuse_graph(module: fx.GraphModule, state: ModuleState, reassigned: Mapping[int, str]) -> None:
    """Refuse a graph that writes in place to anything but its placeholders, or holds a tensor that changes between steps.

    Args:
        module: the functional graph.
        state: what the model registers.
        reassigned: name of each attribute that the forward gave another tensor, by the id of its former tensor.

    Raises:
        StateReassignedError: the forward reads an attribute and puts another tensor into it.
        ModelNotSupportedError: it reaches a parameter other than through the module (a closure, a global).
        UnsupportedOperatorError: an operator writes in place.
    """
    for node in module.graph.nodes:
        if node.op == "call_function":
            _refuse_in_place(node)
    slots = (*state.parameter_slots, *state.buffer_slots)
    names = {id(t): slot.name for t, slot in zip((*state.parameters, *state.buffers), slots, strict=True)}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            _refuse_captured_tensor(getattr(module, node.target), names, reassigned)


def unregistered_parameter_error(names: Sequence[str]) -> ModelNotSupportedError:
    """For tensors in Python state that would be trained, though no module of the model registers them."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ModelNotSupportedError(
        f"the forward sends gradients into {', '.join(names[:_MOST_NAMES])}{more}: no parameter of the model, which finds "
        "none in a list, a global or a variable around a function. Register it (`self.part = part`, or nn.ModuleList and "
        "nn.ParameterList in the place of a list). What shall not be trained: requires_grad_(False), or use it under "
        "torch.no_grad()",
        kind="closure",
    )


def unmatched_draw_error(node: fx.Node) -> UnsupportedOperatorError:
    """For a draw under ``torch.utils.checkpoint`` that the recomputation makes and the forward did not."""
    source = node.meta.get("source", "")
    return UnsupportedOperatorError(
        f"{source or 'the model'}: when torch.utils.checkpoint runs this block again, it draws random numbers that it did not "
        "draw the first time. Remove the checkpoint: the plan recomputes in its place",
        operator=str(node.target),
        source=source,
    )


def _refuse_in_place(node: fx.Node) -> None:
    written = written_arguments(node.target, node.args, node.kwargs)
    if any(not isinstance(argument, fx.Node) or argument.op != "placeholder" for argument in written):
        source = node.meta.get("source", "")
        raise UnsupportedOperatorError(
            f"{source or 'the model'}: {node.target} writes in place and has no out-of-place form that a graph can hold. "
            "Use an out-of-place operator instead",
            operator=str(node.target),
            source=source,
        )


def _refuse_captured_tensor(constant: object, names: Mapping[int, str], reassigned: Mapping[int, str]) -> None:
    if id(constant) in reassigned:
        raise reassigned_error([reassigned[id(constant)]])
    if id(constant) in names or (isinstance(constant, torch.Tensor) and constant.requires_grad):
        name = names.get(id(constant), "a tensor that requires a gradient and is no parameter of the model")
        raise ModelNotSupportedError(
            f"the forward reaches {name} not through the module but through a closure, a global or a container. "
            "Register it as a parameter or buffer and use it from there",
            kind="closure",
        )
