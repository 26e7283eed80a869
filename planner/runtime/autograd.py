"""Runs a program under autograd, as a chain of ``autograd.Function``s.

The backward begins at ``_Forward``, which only takes the gradients of the outputs, so that autograd frees them. Then the engine
walks the chain of ``_BackwardSegment``s. Each runs its segment and returns the gradients that are final by then; the engine
hands them to the parameters (hooks, accumulation) before it calls the next one. Values between segments live in the store of a
``StepState``, which is freed with the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

from remat_planner.planner.codegen import Code
from remat_planner.planner.errors import BackwardTwiceError, ChangedInBetweenError, DoubleBackwardError, UnexpectedGradientError
from remat_planner.planner.runtime.wiring import Wiring
from remat_planner.planner.torch_private import below_autograd, direct_apply, function_behind, graph_is_kept


def run_program(
    wiring: Wiring,
    arguments: list[torch.Tensor],
    owners: Sequence[torch.Tensor | None],
    on_backward: Callable[[], None] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Run the forward and attach the backward to what it returns.

    Args:
        wiring: the program.
        arguments: parameters, buffers and inputs; the call empties the list.
        owners: for each gradient the tensor that receives it.
        on_backward: called when the backward begins.
    """
    state = StepState(wiring, arguments, on_backward)
    token = None
    segments = wiring.program.segments
    for position in range(len(segments) - 1, -1, -1):
        token = _apply_segment(state, position, token, *[owners[k] for k in segments[position].gradients])
    return _apply_forward(state, token)


def first_and_last_node(outputs: Sequence[torch.Tensor]) -> tuple[Node, Node] | None:
    """The autograd nodes at which the backward of a planned call begins and ends; None where ``outputs`` have none.

    ``outputs`` are the tensors that the call returned.
    """
    for output in outputs:
        first = output.grad_fn
        if first is not None and function_behind(first) is _Forward:
            last = first
            while following := [
                node for node, _ in last.next_functions if node is not None and function_behind(node) is _BackwardSegment
            ]:
                last = following[0]
            return first, last
    return None


class StepState:
    """State of one forward and its backward.

    Attributes:
        wiring: the program.
        arguments: what the forward runs on; None once it has begun.
        on_backward: called when the backward begins.
        store: what the forward retains for the backward; None once it is freed.
        live: the store of a backward that is running.
        versions: version counters, after the forward, of what must not change until the backward.
    """

    __slots__ = ("arguments", "live", "on_backward", "store", "versions", "wiring")

    def __init__(self, wiring: Wiring, arguments: list[torch.Tensor], on_backward: Callable[[], None] | None = None) -> None:
        self.wiring = wiring
        self.on_backward = on_backward
        self.arguments: list[torch.Tensor] | None = arguments
        self.store: list[Any] | None = None
        self.live: list[Any] | None = None
        self.versions: list[int] = []


class _Forward(torch.autograd.Function):
    """Runs the forward. Its backward takes the gradients of the outputs into the store."""

    @staticmethod
    def forward(ctx: Any, state: StepState, token: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG004 - links the chain
        wiring = state.wiring
        program = wiring.program
        arguments, state.arguments = state.arguments, None
        outputs, retained = _execute(program.run_forward, arguments)  # type: ignore[arg-type]
        store: list[Any] = [None] * program.store_size
        for place, value in zip(program.writes, retained, strict=True):
            store[place] = value
        state.store = store
        state.versions = [store[place]._version for place, _ in program.unchanged]
        ctx.state = state
        ctx.set_materialize_grads(False)
        if not all(wiring.differentiable):
            ctx.mark_non_differentiable(*[o for o, d in zip(outputs, wiring.differentiable, strict=True) if not d])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, None]:
        state: StepState = ctx.state
        wiring = state.wiring
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "create_graph=True asks for gradients of gradients, but a planned module covers one forward and one backward: "
                "call the backward without it, or take the plan off with remat_planner.remove_schedule"
            )
        if state.store is None:
            raise BackwardTwiceError(
                "a second backward through the same forward of a planned module: its activations are freed. Call the first "
                "backward with retain_graph=True, or run the forward again"
            )
        _check_unchanged(state)
        if state.on_backward is not None:
            state.on_backward()
        store = list(state.store)
        if not graph_is_kept():
            state.store = None
        for expected, gradient, name in zip(wiring.incoming, gradients, wiring.output_names, strict=True):
            if gradient is not None and not expected:
                raise UnexpectedGradientError(
                    f"a gradient arrived at the output {name}, to which the planned loss sends none. Plan with the loss that "
                    "you train with: plan(..., loss=...)",
                    output=name,
                )
            # Where one tensor is in several places of the output, autograd has added up its gradients: the first gets the sum.
            for k, (layout, place) in enumerate(expected):
                if place is not None:
                    store[place] = layout.fit(gradient if k == 0 else None)
        state.live = store
        return None, None


class _BackwardSegment(torch.autograd.Function):
    """Runs one segment in its backward. Its forward only makes a token that links it to the next one in the chain."""

    @staticmethod
    def forward(ctx: Any, state: StepState, position: int, token: torch.Tensor | None, *owners: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        ctx.state = state
        ctx.position = position
        ctx.set_materialize_grads(False)
        # Autograd runs a node on the stream that was current for the node's device in the forward. For a node on the CPU it
        # would be whichever stream is current when the backward is called.
        return torch.empty(0, device=state.wiring.device)

    @staticmethod
    def backward(ctx: Any, _token: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        state: StepState = ctx.state
        segments = state.wiring.program.segments
        segment = segments[ctx.position]
        store = state.live
        if store is None:
            raise BackwardTwiceError(
                "the backward of a planned module was entered in the middle or again after a failure: run the forward again"
            )
        values = [store[place] for place in segment.reads]
        for place in segment.clears:
            store[place] = None
        try:
            gradients, retained = _execute(segment.run, values)
        except BaseException:
            state.live = None
            raise
        for place, value in zip(segment.writes, retained, strict=True):
            store[place] = value
        if ctx.position == len(segments) - 1:
            state.live = None
        return None, None, None, *gradients


def _check_unchanged(state: StepState) -> None:
    store, wiring = state.store, state.wiring
    assert store is not None
    unchanged = wiring.program.unchanged
    if [store[place]._version for place, _ in unchanged] == state.versions:
        return
    names = [
        name
        for (place, _), name, version in zip(unchanged, wiring.unchanged_names, state.versions, strict=True)
        if store[place]._version != version
    ]
    names = list(dict.fromkeys(names))
    raise ChangedInBetweenError(
        f"changed in place between the forward and the backward, which reads it: {', '.join(names)}. Change it after the "
        "backward, or change a clone",
        names=tuple(names),
    )


def _execute(code: Code, values: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Run generated code without autograd's records and without autocast, whose casts were captured.

    Grad mode is on as in eager's forward, because some kernels depend on it: oneDNN's LSTM keeps its workspace only then.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return _execute(code, values)
    with torch.enable_grad(), below_autograd():
        return code(values)


_apply_forward = direct_apply(_Forward)
_apply_segment = direct_apply(_BackwardSegment)
