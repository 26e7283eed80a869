"""What a step takes when its regions run by given schedules: measured, interval by interval, on the device itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import measurements
from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import Loss, device_of, measure_intervals, one_step, restored
from remat_planner.planner.regions.forward import RegionForward, give_back_forward
from remat_planner.planner.runtime import Replan, first_and_last_node
from remat_planner.schedules import Schedule

Kind = Literal["between", "forward", "backward"]
Mark = Callable[[str], None]


@dataclass(frozen=True)
class Interval:
    """A stretch of the step.

    Attributes:
        kind: a region's forward or backward, or what lies between them.
        region: whose; "" between them.
        holding: the regions that hold something for a backward that is still to come, one entry for each call, this one's own
            not among them.
        peak: highest bytes above those from before the step.
    """

    kind: Kind
    region: str
    holding: tuple[str, ...]
    peak: int


@dataclass(frozen=True)
class MeasuredStep:
    """One step. ``held`` are the bytes at its end above those before it: gradients and outputs."""

    intervals: tuple[Interval, ...]
    held: int

    @property
    def highest(self) -> Interval:
        """Where the peak is reached."""
        return max(self.intervals, key=lambda interval: interval.peak)


def measure_step(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Loss | None,
    schedules: Mapping[str, Schedule],
    *,
    replan: Replan,
    accumulate: bool = False,
    rehearsals: int = 0,
) -> MeasuredStep:
    """Run forward, loss and backward of ``model``, its regions by ``schedules``, with gradients to add to where it is to
    ``accumulate``. The model is left as it was.

    ``rehearsals`` are steps before the one that is measured, for what is made once and kept.

    Raises:
        RegionError: the step is not the same from run to run.
    """
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    marker = _Marker()
    device = device_of(model)
    with ExitStack() as stack:
        restart = stack.enter_context(restored(model, inputs))
        for name, schedule in schedules.items():
            block = model.get_submodule(name)
            stack.enter_context(_marked(block, RegionForward(block, schedule, replan), name, marker))
        for _ in range(rehearsals):
            restart()
            one_step(model, tuple(args), dict(kwargs), loss)()
        runs = []
        for _ in range(measurements(model)):
            restart()
            if accumulate:
                one_step(model, tuple(args), dict(kwargs), loss)()
            marker.step = one_step(model, tuple(args), dict(kwargs), loss)
            found, held = measure_intervals(marker.during, device)
            runs.append(MeasuredStep(tuple(_intervals(found)), held))
    return _merged(runs, min)


def highest_of(ranks: Sequence[MeasuredStep]) -> MeasuredStep:
    """The same step as several ranks measured it: in each interval the most that any of them took.

    Raises:
        RegionError: the ranks did not run the same step.
    """
    return _merged(ranks, max)


def _merged(steps: Sequence[MeasuredStep], which: Callable[[Iterable[int]], int]) -> MeasuredStep:
    first = steps[0]
    if any([replace(i, peak=0) for i in one.intervals] != [replace(i, peak=0) for i in first.intervals] for one in steps):
        raise RegionError(
            "the regions are not called in the same order on every rank or in every run, so that one schedule cannot serve: "
            "plan with inputs on which the forward always takes the same way",
            names=tuple(dict.fromkeys(interval.region for interval in first.intervals if interval.region)),
        )
    together = zip(*(one.intervals for one in steps), strict=True)
    intervals = tuple(replace(same[0], peak=which(interval.peak for interval in same)) for same in together)
    return MeasuredStep(intervals, which(one.held for one in steps))


class _Marker:
    """Marks where the calls of regions begin and end; each call has a number."""

    def __init__(self) -> None:
        self.step: Callable[[], Any] = lambda: None
        self._mark: Mark | None = None
        self._calls = 0

    def during(self, mark: Mark) -> Any:
        """Run the step, marking with ``mark``."""
        self._mark, self._calls = mark, 0
        return self.step()

    def new_call(self) -> int:
        self._calls += 1
        return self._calls

    def __call__(self, kind: Kind, call: int = 0, region: str = "") -> None:
        if self._mark is not None:
            self._mark(f"{kind}/{call}/{region}")


@contextmanager
def _marked(block: nn.Module, planned: RegionForward, name: str, marker: _Marker) -> Iterator[None]:
    own = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = marker.new_call()
        marker("forward", call, name)
        output = planned(*args, **kwargs)
        marker("between")
        ends = first_and_last_node([leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)])
        if ends is not None:
            ends[0].register_prehook(lambda _: marker("backward", call, name))
            ends[1].register_hook(lambda *_: marker("between"))
        return output

    block.forward = forward
    try:
        yield
    finally:
        give_back_forward(block, own)


def _intervals(found: Sequence[tuple[str, int]]) -> Iterator[Interval]:
    holding: dict[int, str] = {}
    for label, peak in found:
        kind, call, region = label.split("/", 2) if label else ("between", "0", "")
        number = int(call)
        holding.pop(number, None)
        yield Interval(kind, region, tuple(holding.values()), peak)  # type: ignore[arg-type]
        if kind == "forward":
            holding[number] = region
