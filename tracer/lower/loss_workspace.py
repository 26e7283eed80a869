"""The peak of the caller's loss, from the lifetimes of its storages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate

from torch import fx

from remat_planner.tracer.costs import rounded_up
from remat_planner.tracer.joint import CapturedLoss


def loss_workspace(loss: CapturedLoss | None, workspaces: Mapping[fx.Node, int], block: int) -> int:
    """Peak bytes of the caller's loss, beyond the outputs that it reads and the loss and gradients that it leaves.

    Args:
        loss: None where the caller passes none.
        workspaces: bytes that each of its nodes needs while it runs.
        block: every size counts as a multiple of this many bytes.
    """
    if loss is None:
        return 0
    in_operator: dict[int, int] = defaultdict(int)
    for node, workspace in workspaces.items():
        if "operator" in node.meta:
            in_operator[node.meta["operator"]] += rounded_up(workspace, block)
    change: dict[int, int] = defaultdict(int)
    for lifetime in loss.lifetimes:
        change[lifetime.first] += rounded_up(lifetime.bytes, block)
        if not lifetime.stays:
            change[lifetime.last + 1] -= rounded_up(lifetime.bytes, block)
    last = max((*in_operator, *change), default=-1)
    resident = accumulate(change[k] for k in range(last + 1))
    left = sum(rounded_up(lifetime.bytes, block) for lifetime in loss.lifetimes if lifetime.stays)
    return max((size + in_operator[k] - left for k, size in enumerate(resident)), default=0)
