"""Running a program under autograd: a chain of ``autograd.Function``s, one for each segment of the backward.

The backward begins at ``_Arrive``, which takes in the gradients of the outputs and does nothing else, so that autograd lets
go of them; then the engine walks the chain. Each link runs its segment and returns the gradients that are final by then,
which the engine hands to the parameters (hooks, accumulation) before it goes on to the next link. Everything that lives
between the links is in the run's store; dropping the outputs drops the run.
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


class _Run:
    """One forward and its backward. ``store`` is what the forward kept, ``live`` what a backward under way works on."""

    __slots__ = ("begin", "given", "live", "store", "versions", "wiring")

    def __init__(self, wiring: Wiring, given: list[torch.Tensor], begin: Callable[[], None] | None = None) -> None:
        self.wiring = wiring
        self.begin = begin
        self.given: list[torch.Tensor] | None = given
        self.store: list[Any] | None = None
        self.live: list[Any] | None = None
        self.versions: list[int] = []


def run(
    wiring: Wiring,
    given: list[torch.Tensor],
    owners: Sequence[torch.Tensor | None],
    begin: Callable[[], None] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Run the forward on ``given`` (parameters, buffers, inputs), emptied by it; ``owners`` are the tensors behind the
    gradients, ``begin`` is called when the backward begins.
    """
    state = _Run(wiring, given, begin)
    token = None
    segments = wiring.program.segments
    for position in range(len(segments) - 1, -1, -1):
        token = _apply_link(state, position, token, *[owners[k] for k in segments[position].gradients])
    return _apply_arrive(state, token)


class _Arrive(torch.autograd.Function):
    """The forward, and the end of the chain at which the gradients of the outputs arrive."""

    @staticmethod
    def forward(ctx: Any, state: _Run, token: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG004 - the chain hangs on it
        wiring = state.wiring
        program = wiring.program
        given, state.given = state.given, None
        outputs, kept = _execute(program.run_forward, given)  # type: ignore[arg-type]
        store: list[Any] = [None] * program.store_size
        for place, value in zip(program.writes, kept, strict=True):
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
        state: _Run = ctx.state
        wiring = state.wiring
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "create_graph=True asks for gradients of gradients, but a planned module covers one forward and one backward: "
                "call the backward without it, or take the plan off with remat_planner.remove_schedule"
            )
        if state.store is None:
            raise BackwardTwiceError(
                "a second backward through the same forward of a planned module: what it kept is freed. Call the first one "
                "with retain_graph=True, or run the forward again"
            )
        _check_unchanged(state)
        if state.begin is not None:
            state.begin()
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
            # Autograd has summed up what arrived at one tensor in several places: the first place gets the sum.
            for k, (form, place) in enumerate(expected):
                if place is not None:
                    store[place] = form.fit(gradient if k == 0 else None)
        state.live = store
        return None, None


class _Link(torch.autograd.Function):
    """One segment of the backward."""

    @staticmethod
    def forward(ctx: Any, state: _Run, position: int, token: torch.Tensor | None, *owners: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        ctx.state = state
        ctx.position = position
        ctx.set_materialize_grads(False)
        # Autograd runs a node on the stream that its inputs' device had in the forward; one on the CPU would run on whichever
        # stream is current when the backward is called.
        return torch.empty(0, device=state.wiring.device)

    @staticmethod
    def backward(ctx: Any, _token: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        state: _Run = ctx.state
        segments = state.wiring.program.segments
        segment = segments[ctx.position]
        store = state.live
        if store is None:
            raise BackwardTwiceError("the backward of a planned module was entered in the middle: run the forward again")
        values = [store[place] for place in segment.reads]
        for place in segment.clears:
            store[place] = None
        try:
            gradients, kept = _execute(segment.run, values)
        except BaseException:
            state.live = None
            raise
        for place, value in zip(segment.writes, kept, strict=True):
            store[place] = value
        if ctx.position == len(segments) - 1:
            state.live = None
        return None, None, None, *gradients


def first_and_last_node(outputs: Sequence[torch.Tensor]) -> tuple[Node, Node] | None:
    """The autograd nodes with which the backward of a planned call begins and ends, found from what the call returned.

    None where no backward of a planned call hangs on ``outputs``.
    """
    for output in outputs:
        first = output.grad_fn
        if first is not None and function_behind(first) is _Arrive:
            last = first
            while following := [node for node, _ in last.next_functions if node is not None and function_behind(node) is _Link]:
                last = following[0]
            return first, last
    return None


def _check_unchanged(state: _Run) -> None:
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
        f"changed in place between the forward and the backward that reads it: {', '.join(names)}. Change it after the "
        "backward, or change a clone",
        names=tuple(names),
    )


def _execute(code: Code, values: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Run generated code as it stands: nothing for autograd to record, no autocast on top of the captured casts.

    Grad mode is on, as it was in eager's forward: some kernels look at it (oneDNN's LSTM keeps its workspace only then).
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return _execute(code, values)
    with torch.enable_grad(), below_autograd():
        return code(values)


_apply_arrive = direct_apply(_Arrive)
_apply_link = direct_apply(_Link)
