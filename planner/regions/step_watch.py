"""Says once when training takes more bytes than a schedule by regions counts, as ``runtime.StepWatch`` does for a whole plan.

The regions of one model share a watch: their retained bytes add up.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.runtime import Flight
from remat_planner.schedules import RegionSchedule, Schedule
from remat_planner.tracer.joint import Joint

_log = logging.getLogger("remat_planner")


@dataclass
class RegionWatch:
    """Watches the steps of one model whose regions are planned.

    Attributes:
        model: class of the model.
        budget: bytes that the step may take.
        peaks: bytes that it takes with one forward in flight and with two.
        calls: how often a step calls each region, by name.
        accumulates: whether the plan counts the gradients of an earlier step.
    """

    model: str
    budget: int
    peaks: tuple[int, int]
    calls: Mapping[str, int]
    accumulates: bool
    _blocks: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)
    _places: dict[str, weakref.ref[nn.Module]] = field(default_factory=dict)
    _model: Callable[[], nn.Module | None] = lambda: None
    _backwards: int = 0
    _told_of_others: bool = False
    _most: int = 1
    _in_backward: bool = False
    _told_of_flights: bool = False
    _told_of_gradients: bool = False
    _told_of_evaluation: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RegionWatch, (self.model, self.budget, self.peaks, self.calls, self.accumulates)

    @classmethod
    def of(cls, schedule: RegionSchedule) -> RegionWatch:
        """The watch of a model on which ``schedule`` is."""
        peaks = schedule.peak_in_flight(1), schedule.peak_in_flight(2)
        accumulates = schedule.origin.training.accumulate
        return cls(schedule.origin.model, schedule.budget, peaks, dict(schedule.calls), accumulates)

    def applied_to(self, model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
        """The schedules are on these ``blocks`` of ``model``, given by their names in it."""
        self._model = weakref.ref(model)
        self._places = {name: weakref.ref(block) for name, block in blocks.items()}

    def of_region(self, name: str, block: nn.Module) -> _OneRegion:
        """What the calls of one region are told to."""
        self._blocks.add(block)
        return _OneRegion(self, name)

    def forwards(self, name: str, number: int) -> None:
        """The region ``name`` is called while ``number`` calls of it, this one too, wait for their backward."""
        self._in_backward = False
        forwards = -(-number // self.calls[name])
        if self._told_of_flights or forwards <= self._most:
            return
        self._most = forwards
        peak = self.peaks[0] + (forwards - 1) * (self.peaks[1] - self.peaks[0])
        if peak <= self.budget:
            return
        self._told_of_flights = True
        _log.warning(
            "%d forwards of %s, which is planned by regions, run before the first backward: %s is called %d times, where "
            "a step has %d. The budget of %s bytes is for one forward and its backward; a step with %d takes %s bytes or more. "
            "Call backward after each forward, or give both inputs to one call; or plan a module whose forward makes all these "
            "calls; or plan with a lower budget (RegionSchedule.peak_in_flight(%d))",
            forwards,
            self.model,
            name,
            number,
            self.calls[name],
            f"{self.budget:,}",
            forwards,
            f"{peak:,}",
            forwards,
        )

    def backward_begins(self) -> None:
        """At the first backward of a region in a step, see whether gradients of regions are there already."""
        is_first, self._in_backward = not self._in_backward, True
        if is_first:
            self._backwards += 1
            if self._backwards & (self._backwards - 1) == 0:
                self._check_places()
        if not is_first or self.accumulates or self._told_of_gradients:
            return
        parameters = {id(p): p for block in self._blocks for p in block.parameters()}.values()
        existing = sum(p.grad.nbytes for p in parameters if p.grad is not None and not p.grad.is_sparse)
        if not existing or self.peaks[0] + existing <= self.budget:
            return
        self._told_of_gradients = True
        _log.warning(
            "%s bytes of gradients are there before the backward of the regions of %s begins, which their plan does not count: "
            "the step takes up to %s bytes, and its budget is %s. Remove them before the step, with "
            "zero_grad(set_to_none=True); where the step shall add to them, plan with "
            "training=remat_planner.TrainingState(accumulate=True)",
            f"{existing:,}",
            self.model,
            f"{self.peaks[0] + existing:,}",
            f"{self.budget:,}",
        )

    def _check_places(self) -> None:
        """See whether other modules are in the places of planned ones."""
        model = self._model()
        if model is None or self._told_of_others:
            return
        there = dict(model.named_modules())
        others = [name for name, block in self._places.items() if name in there and there[name] is not block()]
        if others:
            self._told_of_others = True
            _log.warning(
                "%s of %s, which is planned by regions, %s replaced, and what is there now has no plan: the step takes more "
                "than its budget of %s bytes where that retains more. Take the plan off (remat_planner.remove_schedule), and "
                "plan again",
                ", ".join(others),
                self.model,
                "was" if len(others) == 1 else "were",
                f"{self.budget:,}",
            )

    def evaluated(self, output: Any) -> None:
        """A region has run with gradients enabled in evaluation mode, for which it has no plan: tell if a backward follows."""
        if self._told_of_evaluation:
            return
        leaves = pytree.tree_leaves(output)
        for node in {leaf.grad_fn for leaf in leaves if type(leaf) is torch.Tensor and leaf.grad_fn is not None}:
            node.register_prehook(self._tell_of_evaluation)

    def _tell_of_evaluation(self, _gradients: Any) -> None:
        if not self._told_of_evaluation:
            self._told_of_evaluation = True
            _log.warning(
                "a training step of %s, which is planned by regions, ran without their plans, because they are in evaluation "
                "mode and planned for training mode: the step takes the memory of an unplanned one, and its budget is %s "
                "bytes. To train in this mode, call plan after model.eval(); else call train()",
                self.model,
                f"{self.budget:,}",
            )


class _OneRegion:
    """Counts the calls of one region whose backward has not begun."""

    def __init__(self, watch: RegionWatch, name: str) -> None:
        self._watch = watch
        self._name = name
        self._in_flight: list[weakref.ref[Flight]] = []

    def flight(self, schedule: Schedule, joint: Joint, on_backward: Callable[[], None] | None) -> Flight:
        """As ``StepWatch.flight``."""
        flight = Flight(self, schedule, joint, on_backward)
        self._in_flight = [ref for ref in self._in_flight if (other := ref()) is not None and not other.backward_began]
        self._in_flight.append(weakref.ref(flight))
        self._watch.forwards(self._name, len(self._in_flight))
        return flight

    def evaluated(self, output: Any) -> None:
        """As ``RegionWatch.evaluated``."""
        self._watch.evaluated(output)

    def outputs_are_held(self, schedule: Schedule, joint: Joint, names: Sequence[str]) -> None:
        """Nothing: no plan by regions counts on a loop that drops its outputs."""

    def backward_begins(self, schedule: Schedule, joint: Joint) -> None:  # noqa: ARG002 - as that of ``StepWatch``
        """As ``StepWatch.backward_begins``."""
        self._watch.backward_begins()
