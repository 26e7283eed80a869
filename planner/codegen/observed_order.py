"""Whether somebody observes the order in which gradients are handed over."""

from __future__ import annotations

from torch import nn

from remat_planner.planner.distributed import in_process_group
from remat_planner.planner.torch_private import runs_hooks


def order_is_observed(model: nn.Module) -> bool:
    """Whether other ranks depend on the order of the gradients of ``model``, or hooks on its parameters may.

    Hooks share state (a list, an optimizer's norm) and draw random numbers, in the order in which they run.
    """
    return in_process_group() or any(map(runs_hooks, model.parameters()))
