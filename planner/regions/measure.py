"""Measures a real step whose regions run by given schedules: the peaks inside the regions' calls and between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.distributed import runs_to_measure_peak
from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import KeptState, Loss, device_of, measure_intervals, one_step, state_restored
from remat_planner.planner.planning import Step, remember_capture, remembered_capture, settings_of
from remat_planner.planner.regions.arriving_gradients import ArrivingGradients
from remat_planner.planner.regions.forward import RegionForward, restore_forward
from remat_planner.planner.runtime import Replan, first_and_last_node
from remat_planner.schedules import Schedule

Kind = Literal["between", "forward", "backward"]


@dataclass(frozen=True)
class Interval:
    """A stretch of the step.

    Attributes:
        kind: the forward or backward of a region, or the code between the regions.
        region: label of the region; "" between regions.
        holding: the other calls of regions that retain activations meanwhile, each as the label of its region.
        peak: highest bytes above those before the step.
    """

    kind: Kind
    region: str
    holding: tuple[str, ...]
    peak: int


@dataclass(frozen=True)
class MeasuredStep:
    """One measured step.

    Attributes:
        intervals: its stretches, in order.
        held: bytes at its end above those before it: gradients and outputs.
    """

    intervals: tuple[Interval, ...]
    held: int

    @property
    def highest(self) -> Interval:
        """The interval with the peak."""
        return max(self.intervals, key=lambda interval: interval.peak)


def measure_step(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Loss | None,
    schedules: Mapping[str, Mapping[str, Schedule]],
    *,
    replan: Replan,
    arriving: ArrivingGradients,
    kept: KeptState,
    accumulate: bool = False,
    rehearsals: int = 0,
    disk_folder: str | Path | None = None,
) -> MeasuredStep:
    """Run forward, loss and backward of ``model``, its regions by ``schedules``. The model is left as it was.

    Args:
        model: the model that is trained.
        args: its positional inputs.
        kwargs: its named inputs.
        loss: output -> scalar; None for the model's own.
        schedules: for each module by its full name, those of its forms of input by label.
        replan: called if a region gets inputs of another form than the planned one.
        arriving: notes the layouts of the gradients that arrive at the regions' outputs.
        kept: knows which globals the forward can reach, and then also the backward.
        accumulate: whether the measured step adds to the gradients of a step before it.
        rehearsals: steps to run before, for what libraries allocate once and keep.
        disk_folder: for the files of schedules that copy to a disk.

    Raises:
        OffloadError: what a schedule copies to cannot serve the model's device, or has no room.
        RegionError: the step is not the same from run to run.
    """
    marker = _Marker()
    device = device_of(model)
    with ExitStack() as stack:
        for name, forms in schedules.items():
            block = model.get_submodule(name)
            planned = RegionForward(block, joined(forms), replan, disk_folder=disk_folder)
            stack.enter_context(_marked(block, planned, forms, marker, arriving))
        # With the marked forwards in place, which a restart then leaves there.
        state = stack.enter_context(state_restored(model, args, kwargs, others=() if loss is None else (loss,)))
        state.include(kept)
        for _ in range(rehearsals):
            state.restart()
            one_step(model, tuple(args), dict(kwargs), loss)()
        runs = []
        for _ in range(runs_to_measure_peak(model)):
            state.restart()
            if accumulate:
                one_step(model, tuple(args), dict(kwargs), loss)()
            marker.step = one_step(model, tuple(args), dict(kwargs), loss)
            with nullcontext() if kept.knows_backward else state.observed():  # hooks of parameters run in it, for example
                peaks, held = measure_intervals(marker.run_step, device)
            if not kept.knows_backward:
                state.restart()
                kept.include(state)
                kept.knows_backward = True
            runs.append(MeasuredStep(tuple(_intervals(peaks)), held))
    return _merged(runs, min)


def joined(forms: Mapping[str, Schedule]) -> Schedule:
    """The first schedule, with the others as its companions."""
    first, *others = forms.values()
    if not others:
        return first
    schedule, joint = replace(first, companions=tuple(others)), remembered_capture(first)
    if joint is not None:
        remember_capture(schedule, Step(schedule.graph, joint, schedule.origin, settings_of(first)))
    return schedule


def highest_of(ranks: Sequence[MeasuredStep]) -> MeasuredStep:
    """The same step as several ranks measured it: in each interval the highest peak of any rank.

    Raises:
        RegionError: the ranks did not run the same step.
    """
    return _merged(ranks, max)


def _merged(steps: Sequence[MeasuredStep], which: Callable[[Iterable[int]], int]) -> MeasuredStep:
    first = steps[0]
    if any([replace(i, peak=0) for i in step.intervals] != [replace(i, peak=0) for i in first.intervals] for step in steps):
        raise RegionError(
            "the step does not call its regions in the same order in every run and on every rank, so one schedule cannot serve "
            "all of them: plan with inputs on which the forward always takes the same path",
            names=tuple(dict.fromkeys(interval.region for interval in first.intervals if interval.region)),
        )
    together = zip(*(step.intervals for step in steps), strict=True)
    intervals = tuple(replace(same[0], peak=which(interval.peak for interval in same)) for same in together)
    return MeasuredStep(intervals, which(step.held for step in steps))


class _Marker:
    """Marks the begins and ends of the regions' calls, which it numbers, while a step is measured."""

    def __init__(self) -> None:
        self.step: Callable[[], Any] = lambda: None
        self._mark: Callable[[str], None] | None = None
        self._calls = 0

    def run_step(self, mark: Callable[[str], None]) -> Any:
        """Run the step; ``mark(label)`` begins an interval."""
        self._mark, self._calls = mark, 0
        return self.step()

    def new_call(self) -> int:
        self._calls += 1
        return self._calls

    def __call__(self, kind: Kind, call: int = 0, region: str = "") -> None:
        if self._mark is not None:
            self._mark(f"{kind}/{call}/{region}")


@contextmanager
def _marked(
    block: nn.Module, planned: RegionForward, forms: Mapping[str, Schedule], marker: _Marker, arriving: ArrivingGradients
) -> Iterator[None]:
    own_forward = block.forward
    default, labels = next(iter(forms)), dict(zip(map(id, planned.schedule.forms), forms, strict=True))

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = marker.new_call()
        name = labels.get(id(planned.planned.schedule_of(args, kwargs)), default) if len(forms) > 1 else default
        marker("forward", call, name)
        output = planned(*args, **kwargs)
        marker("between")
        ends = first_and_last_node([leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)])
        if ends is not None:
            first, last = ends
            arriving.watch(name, output)
            first.register_prehook(lambda _: marker("backward", call, name))
            last.register_hook(lambda *_: marker("between"))
        return output

    block.forward = forward
    try:
        yield
    finally:
        restore_forward(block, own_forward)


def _intervals(peaks: Sequence[tuple[str, int]]) -> Iterator[Interval]:
    """The intervals of a step from their labels and highest bytes."""
    holding: dict[int, str] = {}
    for label, peak in peaks:
        kind, call, region = label.split("/", 2) if label else ("between", "0", "")
        number = int(call)
        holding.pop(number, None)
        yield Interval(kind, region, tuple(holding.values()), peak)  # type: ignore[arg-type]
        if kind == "forward":
            holding[number] = region
