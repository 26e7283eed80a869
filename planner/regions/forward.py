"""The planned forward of one block. Only ``forward`` is replaced: the block's own hooks run around it as before.

Each call looks the parameters up after the pre-hooks have run, and uses those that the hooks have put there (as ``fully_shard``
does).
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.planner.distributed import is_fully_sharded, unsharded_class
from remat_planner.planner.planning import remembered_capture
from remat_planner.planner.regions.step_watch import RegionWatch
from remat_planner.planner.runtime import Audit, PlannedCall, Replan, hidden_from_torch_compile, module_view_of
from remat_planner.schedules import Schedule
from remat_planner.tracer.record import EveryOutput

_log = logging.getLogger("remat_planner")


class RegionForward:
    """Replaces ``block.forward``; ``own`` is the forward that it replaces.

    Args:
        block: the module.
        schedule: of its training step, in which a gradient arrives at each of its outputs.
        replan: makes a schedule for inputs of another form.
        compiler: compiles the program; None for PyTorch's own kernels.
        audited: number of regions of the model that are audited, this one too; 0 if they are not.
        disk_folder: for the files of schedules that copy to a disk.
        name: of the region, as ``watch`` knows it.
        watch: that of the model; None where nobody looks at its steps.
    """

    def __init__(
        self,
        block: nn.Module,
        schedule: Schedule,
        replan: Replan,
        compiler: str | None = None,
        audited: int = 0,
        disk_folder: str | Path | None = None,
        name: str = "",
        watch: RegionWatch | None = None,
    ) -> None:
        self.own = block.forward
        self.block = block
        self.schedule = schedule
        self.replan = replan
        self.compiler = compiler
        self.audited = audited
        self.disk_folder = disk_folder
        self.name = name
        self.watch = watch
        self.sharded = is_fully_sharded(block)
        self._call: PlannedCall | None = None
        functools.update_wrapper(self, self.own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output."""
        if torch.compiler.is_dynamo_compiling():
            return hidden_from_torch_compile(self._run)(args, kwargs)
        return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.planned(args, kwargs)

    @property
    def planned(self) -> PlannedCall:
        """The programs, which the first call emits."""
        if self._call is None:
            if is_fully_sharded(self.block) and not self.sharded:
                _warn_of_sharding(self.schedule.origin.model)
            joint = remembered_capture(self.schedule)
            bare = joint.model if joint is not None and vars(joint.model) is vars(self.block) else without_hooks(self.block)
            loss = EveryOutput(self.schedule.origin.gradient_layouts)
            audit = Audit(self.audited) if self.audited else None
            self._call = PlannedCall(
                bare,
                self.schedule,
                loss=loss,
                replan=self.replan,
                compiler=self.compiler,
                watch=None if self.watch is None else self.watch.of_region(self.name, self.block),
                audit=audit,
                disk_folder=self.disk_folder,
            )
        return self._call

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # The copy of the block is in the memo by now. The new forward captures again at its first call.
        copied = memo.get(id(self.block))
        if copied is None:
            raise TypeError("the forward of a planned region is copied with its module: copy.deepcopy(module)")
        watch = copy.deepcopy(self.watch, memo)
        return RegionForward(
            copied, self.schedule, self.replan, self.compiler, self.audited, self.disk_folder, self.name, watch
        )

    def __reduce__(self) -> tuple[Any, ...]:
        settings = self.replan, self.compiler, self.audited, self.disk_folder
        return RegionForward, (self.block, self.schedule, *settings, self.name, self.watch)


@contextmanager
def without_regions(model: nn.Module) -> Iterator[None]:
    """Take the planned regions off the model inside; afterwards exactly these are on it again."""
    planned = planned_regions(model)
    for forward in planned.values():
        take_off(forward.block)
    try:
        yield
    finally:
        for forward in planned_regions(model).values():
            take_off(forward.block)
        for forward in planned.values():
            forward.block.forward = forward


def take_off(block: nn.Module) -> None:
    """Put the block's own forward back."""
    planned = block.forward
    assert isinstance(planned, RegionForward)
    restore_forward(block, planned.own)


def restore_forward(block: nn.Module, own: Any) -> None:
    """Make ``own`` the block's forward again, as an attribute only where it is not the one of its class."""
    del block.__dict__["forward"]
    if getattr(block.forward, "__func__", None) is not getattr(own, "__func__", own):
        block.forward = own


def planned_regions(model: nn.Module) -> dict[str, RegionForward]:
    """The forwards of the model's planned regions, by the names of their blocks."""
    forwards = ((name, vars(module).get("forward")) for name, module in model.named_modules())
    return {name: forward for name, forward in forwards if isinstance(forward, RegionForward)}


def without_hooks(block: nn.Module) -> nn.Module:
    """A module that runs the block's own forward and none of its hooks, on the same parameters and submodules."""
    own = block.forward.own if isinstance(block.forward, RegionForward) else block.forward
    return module_view_of(block, {"forward": property(lambda _: own)}, base=unsharded_class(block))


@functools.cache  # once for all blocks of a kind
def _warn_of_sharding(kind: str) -> None:
    _log.warning(
        "a region (%s) was planned before fully_shard, which allocates and frees other bytes than the measured step did: the "
        "step may exceed the budget. Call fully_shard first and plan the sharded model, on every rank",
        kind,
    )
