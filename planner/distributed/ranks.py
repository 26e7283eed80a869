"""The ranks that plan one model together, and the decisions that they must share.

The step of a wrapped model (DDP, ``fully_shard``) communicates, so every rank must run it equally often and by the same
schedules. One rank decides, and broadcasts its decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from remat_planner.planner.distributed.sharding import is_sharded, parallel_wrapper

Result = TypeVar("Result")

_RUNS_WITH_OTHERS = 8
"""Runs of a step to measure its peak beside other ranks on the CPU: about one run in four misses a free."""


def in_process_group() -> bool:
    """Whether this process is in a process group, where other ranks may depend on the order of its gradients."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@dataclass(frozen=True)
class Ranks:
    """The ranks that run the same step of the same model; this one alone where the model is not wrapped.

    Attributes:
        groups: process groups, one for each dimension of their mesh.
    """

    groups: tuple[Any, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Ranks:
        """The ranks over which ``model`` is wrapped: the group of its DDP, or the mesh of its sharded parameters."""
        wrapper = parallel_wrapper(model)
        if wrapper is not None:
            return cls((wrapper.process_group,))
        meshes = [p.device_mesh for p in model.parameters() if is_sharded(p)]  # type: ignore[attr-defined]
        if not meshes:
            return cls()
        mesh = max(meshes, key=lambda m: m.size())
        return cls(tuple(mesh.get_group(dimension) for dimension in range(mesh.ndim)))

    @property
    def several(self) -> bool:
        """Whether another rank takes part."""
        return any(group.size() > 1 for group in self.groups)

    def agreed(self, decide: Callable[[], Result]) -> Result:
        """What ``decide`` returns or raises on the first rank. It runs there only, and all ranks get the outcome."""
        if not self.groups:
            return decide()
        outcome: list[Any] = [None, None]
        if all(group.rank() == 0 for group in self.groups):
            try:
                outcome[0] = decide()
            except Exception as error:
                outcome[1] = error
        for group in self.groups:
            torch.distributed.broadcast_object_list(outcome, group=group, group_src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gathered(self, value: Result) -> list[Result]:
        """The ``value`` of each rank, in the same order on all of them."""
        values = [value]
        for group in reversed(self.groups):
            gathered: list[Any] = [None] * group.size()
            torch.distributed.all_gather_object(gathered, values, group=group)
            values = [one for part in gathered for one in part]
        return values


def runs_to_measure_peak(model: nn.Module) -> int:
    """How often to run a step for its peak, which is the lowest one measured.

    On the CPU the threads of a process group release what they send and receive. The profiler may miss a free in such a thread,
    in one run or another.
    """
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    return _RUNS_WITH_OTHERS if on_cpu and Ranks.of(model).several else 1
