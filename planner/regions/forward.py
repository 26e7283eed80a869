"""The forward of one block, by its schedule. Only ``forward`` is replaced: the block's own hooks run around it as before.

Parameters are looked up when the forward is called, after the hooks that come before it: what they put there is what is used.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import nn

from remat_planner.planner.distributed import is_fully_sharded, unsharded_class
from remat_planner.planner.planning import remembered_capture
from remat_planner.planner.runtime import PlannedCall, Replan, not_traced, twin_of
from remat_planner.schedules import Schedule
from remat_planner.tracer.record import every_output

_log = logging.getLogger("remat_planner")


@functools.cache  # once for all blocks of a kind
def _warn_of_sharding(kind: str) -> None:
    _log.warning(
        "a region (%s) was planned before fully_shard, which takes and frees other bytes than were measured: the budget is not "
        "promised. Call fully_shard first and plan the sharded model, on every rank",
        kind,
    )


def without_hooks(block: nn.Module) -> nn.Module:
    """The block as a module that runs its own forward and none of its hooks, on the same parameters and submodules."""
    own = block.forward.own if isinstance(block.forward, RegionForward) else block.forward
    return twin_of(block, {"forward": property(lambda _: own)}, base=unsharded_class(block))


class RegionForward:
    """What stands in the place of ``block.forward``.

    Args:
        block: the module.
        schedule: of its training step, a gradient arriving at each of its outputs.
        replan: makes a schedule for inputs of another form.
        compiler: what compiles it; None for PyTorch's own kernels.
    """

    def __init__(self, block: nn.Module, schedule: Schedule, replan: Replan, compiler: str | None = None) -> None:
        self.own = block.forward
        self.block = block
        self.schedule = schedule
        self.replan = replan
        self.compiler = compiler
        self.sharded = is_fully_sharded(block)
        self._call: PlannedCall | None = None
        functools.update_wrapper(self, self.own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output."""
        if torch.compiler.is_dynamo_compiling():
            return not_traced(self._run)(args, kwargs)
        return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.planned(args, kwargs)

    @property
    def planned(self) -> PlannedCall:
        """The programs, made at the first call."""
        if self._call is None:
            if is_fully_sharded(self.block) and not self.sharded:
                _warn_of_sharding(self.schedule.origin.model)
            joint = remembered_capture(self.schedule)
            bare = joint.model if joint is not None and vars(joint.model) is vars(self.block) else without_hooks(self.block)
            self._call = PlannedCall(bare, self.schedule, loss=every_output, replan=self.replan, compiler=self.compiler)
        return self._call

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Inside of a copy of the block, which is in the memo by then. It captures again at its first call.
        copied = memo.get(id(self.block))
        if copied is None:
            raise TypeError("the forward of a planned region is copied with its module: copy.deepcopy(module)")
        return RegionForward(copied, self.schedule, self.replan, self.compiler)

    def __reduce__(self) -> tuple[Any, ...]:
        return RegionForward, (self.block, self.schedule, self.replan, self.compiler)


def put_on(block: nn.Module, schedule: Schedule, replan: Replan, compiler: str | None) -> None:
    """Replace the forward of ``block``."""
    block.forward = RegionForward(block, schedule, replan, compiler)


def put_back(forward: RegionForward) -> None:
    """Put a forward that was taken off in its place again."""
    forward.block.forward = forward


def take_off(block: nn.Module) -> None:
    """Put the block's own forward back."""
    planned = block.forward
    assert isinstance(planned, RegionForward)
    give_back_forward(block, planned.own)


def give_back_forward(block: nn.Module, own: Any) -> None:
    """Make ``own`` the block's forward, as an attribute only where it is not that of its class anyway."""
    del block.__dict__["forward"]
    if getattr(block.forward, "__func__", None) is not getattr(own, "__func__", own):
        block.forward = own


def planned_regions(model: nn.Module) -> dict[str, RegionForward]:
    """The forwards of the model's planned regions, by the names of their blocks."""
    forwards = ((name, vars(module).get("forward")) for name, module in model.named_modules())
    return {name: forward for name, forward in forwards if isinstance(forward, RegionForward)}
