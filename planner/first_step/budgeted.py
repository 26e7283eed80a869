"""``budgeted``: a model that plans itself at its first training call, with what the call brings."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.errors import InfeasibleBudgetError, NotAppliedError
from remat_planner.planner.first_step.seen_loss import LossNotSeenError, SeenLoss, watch_loss
from remat_planner.planner.formatting import format_bytes, format_percent
from remat_planner.planner.plan import plan, plan_traced, refuse_applied
from remat_planner.planner.planning import (
    InputForm,
    Settings,
    costed_step,
    parse_budget,
    remembered_capture,
    schedule_step,
    settings_of,
)
from remat_planner.planner.runtime import call_of, first_call_module, is_planned_module, let_become
from remat_planner.schedules import RegionSchedule, Schedule, TrainingState
from remat_planner.tracer import CaptureError, InputsDoNotFitError, Joint

_log = logging.getLogger("remat_planner")
_SOON = 2.0
"""Seconds of solving for the first step, where the plan that counts comes with the second."""


def budgeted(
    model: nn.Module, budget: int | str, *, loss: Callable[..., torch.Tensor] | None = None, **options: Any
) -> nn.Module:
    """``model`` as a module that trains within ``budget`` bytes: ``model = remat_planner.budgeted(model, "8GB")``.

    It is planned at its first training call, for the inputs, the mode and the autocast of that call, and says so in one line
    on the logger "remat_planner". From then on it is what ``apply_schedule`` returns: inputs of other forms are planned when
    they come. Like that, it is a new object that shares parameters, buffers and attributes with ``model``. Use it in the place
    of ``model``; in evaluation and without gradients it runs the model's own forward.

    The budget holds from the first step on where the loss is known by then: where ``loss`` is given, or the model returns its
    own. A loss that the loop computes from the output is seen in the first step, and counted in the plan that is made at the
    second; the first step runs by the lowest peak that seconds of solving find, which leaves the loss the most room. If the
    loss cannot be seen (the logger says why), that schedule stays: give ``loss``.

    Planning runs ops to measure their seconds, and real steps to verify the plan. ``verify=False`` leaves the latter out; in a
    process group of several ranks they are always left out, because the hooks of a wrapper would communicate.

    Args:
        model: the module to train; not wrapped or compiled yet.
        budget: bytes at the peak of one training step, as in ``plan``.
        loss: output -> scalar, or (output, batch) -> scalar, as in ``plan``.
        options: the other arguments of ``plan``: ``optimizer``, ``training``, ``offload``, ``time_limit``, ...

    Raises:
        BudgetError: ``budget`` is no number of bytes.
        AlreadyAppliedError: ``model`` has a schedule.
        TypeError: ``plan`` has no such option.

    The first training call raises what ``plan`` raises, ``InfeasibleBudgetError`` for instance.
    """
    unknown = sorted(set(options) - set(plan.__kwdefaults__ or {}))
    if unknown or "shapes" in options:
        names = ", ".join(unknown or ["shapes"])
        raise TypeError(f"budgeted() got {names}, which is no option of a plan for the calls that come")
    if budget != "auto":
        parse_budget(budget)
    refuse_applied(model)
    return first_call_module(model, partial(_FirstCalls, budget=budget, loss=loss, options=options))


class _FirstCalls:
    """What a module does until it is planned for good.

    Args:
        model: the module itself.
        view: returns the module that ``budgeted`` returned, whose calls these are.
        budget: of a step.
        loss: of the caller, or None.
        options: of ``plan``.
    """

    def __init__(
        self,
        model: nn.Module,
        view: Callable[[], nn.Module | None],
        *,
        budget: int | str,
        loss: Callable[..., torch.Tensor] | None,
        options: dict[str, Any],
    ) -> None:
        self.model = model
        self._view, self._budget, self._loss, self._options = view, budget, loss, options
        self._provisional: nn.Module | None = None
        self._seen: SeenLoss | LossNotSeenError | None = None
        self._stop_watching: Callable[[], None] = lambda: None
        self._planned: nn.Module | None = None
        self._calling = threading.RLock()

    @property
    def schedule(self) -> Schedule | RegionSchedule:
        """For code that asks a planned module for its schedule.

        Raises:
            NotAppliedError: always; there is none yet.
        """
        raise NotAppliedError(f"this {type(self.model).__name__} is planned at its first training call, and was not called yet")

    def expect_unplanned(self) -> None:
        """The model is used without its plan on purpose, which needs nothing here."""

    def settings(self) -> tuple[int | str, Callable[..., torch.Tensor] | None, dict[str, Any]]:
        """What ``budgeted`` was given beside the model, for a copy or a pickle."""
        return self._budget, self._loss, self._options

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of the model on these inputs. While one thread plans the model, others wait."""
        with self._calling:
            if self._planned is None:
                return self._call(args, kwargs)
        return self._planned(*args, **kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._stop_watching()
        if not torch.is_grad_enabled() or not self.model.training:
            return self.model(*args, **kwargs)
        if self._provisional is None:
            return self._first(args, kwargs)
        return self._second(args, kwargs)

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._loss is not None:
            return self._for_good(self._plan(args, kwargs, self._loss))(*args, **kwargs)
        schedule = self._soon(args, kwargs)
        joint = remembered_capture(schedule) if isinstance(schedule, Schedule) else None
        if joint is None or (_starts_at_numbers(joint) and self._drops_outputs):
            return self._for_good(self._plan(args, kwargs, None))(*args, **kwargs)
        assert isinstance(schedule, Schedule)
        settings, origin = settings_of(schedule), schedule.origin
        if _starts_at_numbers(joint):
            settings = replace(settings, time_limit=self._time_limit)
            step = costed_step(joint, origin.parameters, origin.inputs, settings)
            form = InputForm(*_cut_off_all((args, kwargs)))
            schedule = plan_traced(self.model, form, step, self._budget, verify=self._options_now()["verify"])
            return self._for_good(schedule)(*args, **kwargs)
        settings = replace(settings, time_limit=min(_SOON, self._time_limit))
        step = costed_step(joint, origin.parameters, origin.inputs, settings)
        self._provisional = apply_schedule(self.model, schedule_step(step, "min"))
        return self._watched(args, kwargs)

    def _soon(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Schedule | RegionSchedule:
        """A plan without the loop's loss, found in seconds; whether there is such a loss shows in it."""
        # A plan without the loss cannot count on it that the loop drops the outputs.
        training = {"training": replace(self._training, outputs="held")} if self._drops_outputs else {}
        try:
            return self._plan(args, kwargs, None, verify=False, time_limit=min(_SOON, self._time_limit), **training)
        except InfeasibleBudgetError:
            return self._plan(args, kwargs, None, verify=False, **training)

    @property
    def _drops_outputs(self) -> bool:
        return self._training.outputs == "dropped"

    @property
    def _time_limit(self) -> float:
        return float(self._options.get("time_limit", Settings().time_limit))

    @property
    def _training(self) -> TrainingState:
        return self._options.get("training") or TrainingState()

    def _second(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._provisional is not None
        if self._seen is None:  # a forward whose backward has not come yet, or never will
            return self._watched(args, kwargs)
        failure: Exception
        if isinstance(self._seen, SeenLoss):
            provisional, self._provisional = self._provisional, None
            try:
                return self._for_good(self._plan(args, kwargs, self._seen))(*args, **kwargs)
            except CaptureError as error:
                failure, self._provisional = error, provisional
                if isinstance(error, InputsDoNotFitError):  # one bad batch: the forward raises, and the next call plans
                    return provisional(*args, **kwargs)
        else:
            failure = self._seen
        _log.warning(
            "the bytes of the training loop's loss are not counted (%s). %s goes on by the schedule with the lowest peak, "
            "which leaves it the most room; to plan with it: budgeted(model, budget, loss=lambda output, batch: ...)",
            failure,
            type(self.model).__name__,
        )
        return self._take(self._provisional)(*args, **kwargs)

    def _watched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._provisional is not None
        output = self._provisional(*args, **kwargs)
        this = weakref.ref(self)

        def seen(loss: SeenLoss | LossNotSeenError) -> None:
            if (calls := this()) is not None:
                calls._seen = loss

        self._stop_watching = watch_loss(output, seen)
        weakref.finalize(self, self._stop_watching).atexit = False  # a model that is dropped after one step
        return output

    def _plan(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        loss: Callable[..., torch.Tensor] | None,
        **others: Any,
    ) -> Schedule | RegionSchedule:
        """Plan for these inputs; ``others`` are options that differ from the user's."""
        args, kwargs = _cut_off_all((args, kwargs))
        return plan(self.model, args, kwargs, budget=self._budget, loss=loss, **(self._options_now() | others))

    def _options_now(self) -> dict[str, Any]:
        """The user's options, and whether to verify."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_world_size() > 1:
            return self._options | {"verify": False}
        return {"verify": None} | self._options

    def _for_good(self, schedule: Schedule | RegionSchedule) -> nn.Module:
        _log.warning(
            "planned %s at its first training call: %s at the peak, within %s; +%s a step",
            type(self.model).__name__,
            format_bytes(schedule.peak_bytes),
            format_bytes(schedule.budget),
            format_percent(schedule.seconds / schedule.baseline_seconds - 1),
        )
        return self._take(apply_schedule(self.model, schedule))

    def _take(self, planned: nn.Module) -> nn.Module:
        """Let the view run what ``planned`` runs from now on."""
        self._planned = planned
        if (view := self._view()) is not None:
            let_become(view, planned, call_of(planned) if is_planned_module(planned) else _ByRegions(planned))
        return planned


class _ByRegions:
    """What a module does whose regions were planned: they are in the model itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def expect_unplanned(self) -> None:
        """Nothing watches here."""

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.model(*args, **kwargs)


def _starts_at_numbers(joint: Joint) -> bool:
    """Whether the backward starts at numbers that the model returns: its own loss, auxiliary ones beside it."""
    return all(node.meta["val"].numel() == 1 for node in joint.tangent_nodes)


def _cut_off_all(call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a call without the step before this model, which made them and is no part of the plan."""
    return pytree.tree_map_only(torch.Tensor, _cut_off, call)


def _cut_off(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
