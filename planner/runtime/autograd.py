"""Runs a program under autograd: nodes of the outputs, behind them chains of nodes that hand gradients over.

The engine calls the nodes of the outputs first, which take the gradients that arrive, so that autograd frees them. Then it
walks the chains: each node runs the backward up to its segment and returns the gradients that are final by then; the engine
hands them to the parameters (hooks, accumulation) before it calls the next node. What depends on other outputs has another
chain, so that the engine reaches a parameter from the outputs from which it does in eager.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

from remat_planner.planner.codegen import Handover
from remat_planner.planner.copies import StepPools
from remat_planner.planner.runtime.step_state import StepState
from remat_planner.planner.runtime.wiring import Wiring
from remat_planner.planner.torch_private import direct_apply, function_behind, graph_is_kept, is_run_by_backward


def run_program(
    wiring: Wiring,
    arguments: list[torch.Tensor],
    owners: Sequence[torch.Tensor],
    on_backward: Callable[[], None] | None = None,
    pools: StepPools | None = None,
) -> tuple[torch.Tensor, ...]:
    """Run the forward and attach the backward to what it returns.

    Args:
        wiring: the program.
        arguments: parameters, buffers and inputs; the call empties the list.
        owners: for each gradient the tensor that receives it.
        on_backward: called when the backward begins.
        pools: where the step copies to; None where it copies nothing.
    """
    state = StepState(wiring, on_backward, pools)
    handovers = wiring.program.handovers
    tokens: list[Any] = [None] * len(handovers)
    # Autograd prefers nodes that were made later. So the first handover is made last, and the nodes of the outputs after it.
    for number in range(len(handovers) - 1, -1, -1):
        handover = handovers[number]
        token = None if handover.following is None else tokens[handover.following]
        tokens[number] = _apply_handover(state, handover, token, *[owners[k] for k in handover.receivers])
    state.run_forward(arguments)
    for number, node in enumerate(wiring.nodes):
        outputs = _apply_outputs(state, number, *[tokens[k] for k in node.chains])
        for position, output in zip(node.positions, outputs, strict=True):
            state.outputs[position] = output
    return state.take_outputs()


def first_and_last_node(outputs: Sequence[torch.Tensor]) -> tuple[Node, Node] | None:
    """The autograd nodes at which the backward of a planned call begins and ends; None where ``outputs`` have none.

    ``outputs`` are the tensors that the call returned.
    """
    for output in outputs:
        first = output.grad_fn
        if first is not None and function_behind(first) is _Outputs:
            return first, max(_handovers_behind(first), key=lambda node: node.handover.number)  # type: ignore[attr-defined]
    return None


def _handovers_behind(first: Node) -> set[Node]:
    found: set[Node] = set()
    stack = [first]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in found and function_behind(node) is _Handover:
                found.add(node)
                stack.append(node)
    return found


class _Outputs(torch.autograd.Function):
    """Gives outputs of the forward their history. Its backward takes their gradients."""

    @staticmethod
    def forward(ctx: Any, state: StepState, number: int, *tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.state = state
        ctx.tokens = [state.token] * len(tokens)
        ctx.positions = state.wiring.nodes[number].positions
        ctx.set_materialize_grads(False)
        return tuple(state.outputs[position] for position in ctx.positions)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        ctx.state.receive(ctx.positions, gradients)
        return None, None, *ctx.tokens


class _Handover(torch.autograd.Function):
    """Hands over gradients in its backward. Its forward only makes a token that links it to those before it in the chain."""

    @staticmethod
    def forward(ctx: Any, state: StepState, handover: Handover, *_token_and_owners: torch.Tensor | None) -> torch.Tensor:
        ctx.state = state
        ctx.handover = handover
        ctx.set_materialize_grads(False)
        # Autograd runs a node on the stream that was current for the node's device in the forward. For a node on the CPU it
        # would be whichever stream is current when the backward is called.
        return torch.empty(0, device=state.wiring.device)

    @staticmethod
    def backward(ctx: Any, _token: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        state: StepState = ctx.state
        handover: Handover = ctx.handover
        gradients = state.hand_over(handover)
        is_last = handover.following is None
        if graph_is_kept():
            owners = [node for node, _ in ctx.next_functions][0 if is_last else 1 :]
            given = [node for node, gradient in zip(owners, gradients, strict=False) if gradient is not None]
            if not all(map(is_run_by_backward, given)):
                state.not_taken[handover.number] = gradients
        return None, None, None if is_last else state.token, *gradients, *[None for _ in handover.awaited_by]


_apply_outputs = direct_apply(_Outputs)
_apply_handover = direct_apply(_Handover)
