"""Says once when training takes more bytes than its schedule counts, for a reason that lies outside of the planned step.

Such reasons are a second forward before the backward of the first, gradients that are there before the backward begins, a
backward that keeps the graph, and outputs that the loop holds although the plan is for one that drops them. It speaks only of
what would exceed the budget.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch

from remat_planner.planner.torch_private import graph_is_kept, storage_of
from remat_planner.planner.training_state import with_held_outputs
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer.joint import Joint

_log = logging.getLogger("remat_planner")


class Watch(Protocol):
    """What planned calls are told to."""

    def flight(self, schedule: Schedule, joint: Joint, on_backward: Callable[[], None] | None) -> Flight:
        """A forward begins; the result is called when its backward begins, and calls ``on_backward``."""

    def backward_begins(self, schedule: Schedule, joint: Joint) -> None:
        """The backward of a forward begins."""

    def outputs_are_held(self, schedule: Schedule, joint: Joint, names: Sequence[str]) -> None:
        """The plan is for a loop that drops its outputs, and these are there when the backward begins."""

    def evaluated(self, output: Any) -> None:
        """A forward with gradients enabled has run in a mode that is not planned."""


class StepWatch:
    """Watches the steps of one planned module."""

    def __init__(self) -> None:
        self._in_flight: list[weakref.ref[Flight]] = []
        self._most_in_flight = 1
        self._backwards = 0
        self._told_of_flights = self._told_of_gradients = self._told_of_kept_graph = self._told_of_outputs = False
        self._with_held_outputs: weakref.WeakKeyDictionary[Schedule, int] = weakref.WeakKeyDictionary()  # peaks in bytes

    def flight(self, schedule: Schedule, joint: Joint, on_backward: Callable[[], None] | None) -> Flight:
        """What to call when the backward of a forward that now begins begins; it calls ``on_backward``.

        The forward is over when nothing refers to the returned object any more.
        """
        flight = Flight(self, schedule, joint, on_backward)
        if self._in_flight:
            self._in_flight = [ref for ref in self._in_flight if (other := ref()) is not None and not other.backward_began]
            self._check_in_flight(schedule, len(self._in_flight) + 1)
        self._in_flight.append(weakref.ref(flight))
        return flight

    def _check_in_flight(self, schedule: Schedule, forwards: int) -> None:
        if self._told_of_flights or forwards <= self._most_in_flight:
            return
        self._most_in_flight = forwards
        peak = schedule.peak_in_flight(forwards)
        if peak <= schedule.budget:
            return
        self._told_of_flights = True
        _log.warning(
            "%d forwards of the planned %s run before the first backward. The budget of %s bytes is for one forward and its "
            "backward; a step with %d takes up to %s bytes. Call backward after each forward, or give both inputs to one call; "
            "or plan a module whose forward makes all these calls; or plan with a lower budget (Schedule.peak_in_flight(%d) is "
            "the peak)",
            forwards,
            schedule.origin.model,
            f"{schedule.budget:,}",
            forwards,
            f"{peak:,}",
            forwards,
        )

    def _check_kept_graph(self, schedule: Schedule) -> None:
        peak = schedule.peak_in_flight(2)  # what the forward retains is there twice at most: kept, and recomputed
        if self._told_of_kept_graph or peak <= schedule.budget:
            return
        self._told_of_kept_graph = True
        _log.warning(
            "the backward of the planned %s keeps the graph (retain_graph=True), so that all that its forward retains stays "
            "allocated: the step takes up to %s bytes, and its budget is %s. Add up the losses and call backward once; or plan "
            "with a lower budget",
            schedule.origin.model,
            f"{peak:,}",
            f"{schedule.budget:,}",
        )

    def evaluated(self, output: Any) -> None:
        """Nothing: ``UnplannedTraining`` tells of it for a whole plan."""

    def outputs_are_held(self, schedule: Schedule, joint: Joint, names: Sequence[str]) -> None:
        """These outputs are still there when the backward begins, in a plan for a loop that drops them."""
        if self._told_of_outputs:
            return
        if schedule not in self._with_held_outputs:  # simulated once, not in each step
            held = with_held_outputs(schedule.graph, joint)
            self._with_held_outputs[schedule] = simulate(held, schedule.steps).peak_bytes
        peak = self._with_held_outputs[schedule]
        if peak <= schedule.budget:
            return
        self._told_of_outputs = True
        _log.warning(
            "the training loop holds %s of the planned %s when the backward begins, and the plan is for one that drops its "
            "outputs: the step takes up to %s bytes, and its budget is %s. Drop them before the backward, as in "
            "criterion(model(x), y).backward(), or with del; or plan without TrainingState(outputs='dropped')",
            ", ".join(names),
            schedule.origin.model,
            f"{peak:,}",
            f"{schedule.budget:,}",
        )

    def backward_begins(self, schedule: Schedule, joint: Joint) -> None:
        """See whether gradients are there already; now and then, because that takes time in a model of many parameters."""
        if graph_is_kept():
            self._check_kept_graph(schedule)
        self._backwards += 1
        is_power_of_two = self._backwards & (self._backwards - 1) == 0
        if self._told_of_gradients or not is_power_of_two or schedule.origin.training.releases_gradients:
            return
        existing = sum(p.grad.nbytes for p in joint.model.parameters() if p.grad is not None and not p.grad.is_sparse)
        if not existing or schedule.peak_bytes + existing <= schedule.budget:
            return
        self._told_of_gradients = True
        _log.warning(
            "%s bytes of gradients are there before the backward of the planned %s begins, which its plan does not count: the "
            "step takes up to %s bytes, and its budget is %s. Remove them before the step, with zero_grad(set_to_none=True); "
            "where the step shall add to them, plan with training=remat_planner.TrainingState(accumulate=True)",
            f"{existing:,}",
            schedule.origin.model,
            f"{schedule.peak_bytes + existing:,}",
            f"{schedule.budget:,}",
        )


class Flight:
    """One forward whose backward may follow. It is called when that begins.

    Attributes:
        backward_began: whether it has been called.
    """

    __slots__ = ("__weakref__", "_joint", "_on_backward", "_outputs", "_schedule", "_watch", "backward_began")

    def __init__(self, watch: Watch, schedule: Schedule, joint: Joint, on_backward: Callable[[], None] | None) -> None:
        self._watch = watch
        self._schedule = schedule
        self._joint = joint
        self._on_backward = on_backward
        self.backward_began = False
        self._outputs: list[tuple[str, weakref.ref[torch.Tensor], Callable[[], bool]]] = []

    def returns(self, outputs: Mapping[str, torch.Tensor], retained: Collection[str]) -> None:
        """The forward returns these, by name; the plan itself retains the memory of some of them."""
        self._outputs = [
            (name, weakref.ref(tensor), (lambda: False) if name in retained else storage_of(tensor))
            for name, tensor in outputs.items()
        ]

    def __call__(self) -> None:
        if held := [name for name, tensor, is_there in self._outputs if tensor() is not None or is_there()]:
            self._watch.outputs_are_held(self._schedule, self._joint, held)
        if self._on_backward is not None:
            self._on_backward()
        self.backward_began = True
        self._watch.backward_begins(self._schedule, self._joint)
