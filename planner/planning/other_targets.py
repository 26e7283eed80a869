"""Steps whose loss cannot be run on their output, since its targets are of another batch: a closure over the labels of one.

The plan depends only on the outputs at which the loss sends gradients, and on the bytes that it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from remat_planner.planner.planning.captures import remembered_capture
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import Step, trace_step
from remat_planner.schedules import Graph, Schedule
from remat_planner.tracer.errors import LossRaisedError
from remat_planner.tracer.joint import Joint, flatten

_log = logging.getLogger("remat_planner")


def trace_step_like(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], like: Schedule, settings: Settings
) -> Step:
    """``trace_step`` for other inputs than those of ``like``; a loss that fails on them counts as that of ``like``, scaled.

    Raises:
        tracer.CaptureError: the step cannot be captured.
    """
    try:
        return trace_step(model, args, kwargs, settings=settings)
    except LossRaisedError as error:
        joint = remembered_capture(like)
        if joint is None:
            raise
        step = trace_step(model, args, kwargs, settings=replace(settings, loss=_stand_in(joint)))
        _log.warning("%s. For now, the loss counts as in the planned step, in proportion to the outputs", error)
    scale = max(_output_bytes(step.joint) / max(_output_bytes(joint), 1), 0.0)
    return replace(step, graph=_with_loss_workspace(step.graph, int(_loss_workspace(like.graph) * scale) + 1))


def _stand_in(joint: Joint) -> Callable[[Any], torch.Tensor]:
    """A loss that sends gradients to the same outputs as the captured one: dense ones, or one number expanded."""
    dense = {k: 0 not in node.meta["val"].stride() for k, node in zip(joint.tangent_outputs, joint.tangent_nodes, strict=True)}

    def loss(output: Any) -> torch.Tensor:
        leaves = flatten(output)[0]
        sums = [(leaves[k] * leaves[k] if is_dense else leaves[k]).sum() for k, is_dense in dense.items() if k < len(leaves)]
        return torch.stack([value.to(sums[0].dtype) for value in sums]).sum()

    return loss


def _output_bytes(joint: Joint) -> int:
    return sum(node.meta["val"].numel() * node.meta["val"].element_size() for node in joint.tangent_nodes)


def _loss_workspace(graph: Graph) -> int:
    return max((op.workspace for op in graph.ops if op.outside), default=0)


def _with_loss_workspace(graph: Graph, workspace: int) -> Graph:
    ops = (replace(op, workspace=max(op.workspace, workspace)) if op.outside else op for op in graph.ops)
    return replace(graph, ops=tuple(ops))
