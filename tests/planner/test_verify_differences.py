"""What verify compares, and how it names what differs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner import verify
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.schedules import StaleScheduleError
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of
from tests.planner.verified import (
    _one_thread,  # noqa: F401
    state_of,
    unchanged,
)


class Plain(nn.Module):
    """Two heads, state of several kinds, arguments that hold tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()))
        self.config = {"scale": 1.0, "history": [torch.zeros(2)]}

    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor]) -> dict[str, Any]:
        y = self.used(x) + self.frozen(x) + more["y"]
        return {"loss": y.square().mean(), "hidden": y.detach(), "kind": "plain"}


def _stale(model: Plain, output: dict[str, Any], more: Any, first: dict[str, torch.Tensor]) -> None:
    """The output of the parameters of the first call."""
    output["hidden"] = torch.func.functional_call(model, first, (model.x, more))["hidden"]


def _add_gradient(model: Plain, *_: Any) -> None:
    model.unused.weight.grad = torch.zeros(4, 4)


def _move_frozen(model: Plain, *_: Any) -> None:
    model.frozen.weight.data.add_(1)


def _assign_buffer(model: Plain, *_: Any) -> None:
    model.steps = torch.ones(())


def _set_attribute(model: Plain, *_: Any) -> None:
    model.config["scale"] = 2.0


def _change_tensor_in_attribute(model: Plain, *_: Any) -> None:
    model.config["history"][0].add_(1)


def _replace_entry(_: Plain, __: Any, more: dict[str, Any], ___: Any) -> None:
    more["y"] = more["y"] + 1


def _add_entry(_: Plain, __: Any, more: dict[str, Any], ___: Any) -> None:
    more["z"] = 1


def _change_input(_: Plain, __: Any, more: dict[str, Any], ___: Any) -> None:
    more["y"].add_(1)


def _draw(*_: Any) -> None:
    torch.rand(())


def _draw_in_python(*_: Any) -> None:
    random.random()


def _require_a_gradient(model: Plain, *_: Any) -> None:
    model.unused.weight.requires_grad_(False)


def _constant_of_another_call(_: Plain, output: dict[str, Any], *__: Any) -> None:
    output["kind"] = "planned"


def _keep_history(model: Plain, output: dict[str, Any], *_: Any) -> None:
    output["hidden"] = output["hidden"] + 0 * model.used.weight.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "differing"),
    [
        (_stale, "step 3: output 1"),
        (_add_gradient, "step 1: gradient of unused.weight"),
        (_move_frozen, "step 1: parameter frozen.weight"),
        (_assign_buffer, "step 1: buffer steps"),
        (_set_attribute, "step 1: state config['scale']"),
        (_change_tensor_in_attribute, "step 1: state config['history'][0]"),
        (_replace_entry, "step 1: input args[1]['y']"),
        (_add_entry, "step 1: input args[1]['z']"),
        (_change_input, "step 1: input 1"),
        (_draw, "step 1: random state 0"),
        (_draw_in_python, "step 1: random state of Python"),
        (_require_a_gradient, "step 1: parameter unused.weight (requires a gradient)"),
        (_constant_of_another_call, "step 1: output 2"),
        (_keep_history, "step 1: output 1 (requires a gradient)"),
    ],
)
def test_every_kind_of_difference_is_named(defect: Callable[..., None], differing: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model, x, more = Plain(), torch.randn(2, 4), {"y": torch.zeros(2, 4)}
    schedule = schedule_of(capture(model, (x, more)))
    assert verify(model, schedule, (x, more)).identical
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(Plain, "x", x, raising=False)

    def wrong(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        output = self.model(*args, **kwargs)
        defect(self.model, output, args[1], first)
        return output

    monkeypatch.setattr(PlannedCall, "__call__", wrong)
    verification = verify(model, schedule, (x, more))
    assert not verification.identical
    assert verification.differences[0] == differing
    assert verification.nondeterministic == ()
    assert not verification.close


def test_parameters_that_the_forward_moves_are_compared_and_put_back():
    class Distilled(nn.Module):
        """A teacher that follows its student, and rows of bounded length."""

        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.teacher.weight.lerp_(self.student.weight, 0.1)
                target = self.teacher(x)
            return (self.student(x) - target).square().mean()

    torch.manual_seed(0)
    model, x = Distilled(), torch.randn(2, 4)
    before = state_of(model)
    verification = verify(model, schedule_of(capture(model, (x,))), (x,))
    assert verification.identical, verification.differences
    assert verification.nondeterministic == ()
    assert unchanged(before, state_of(model))


def test_inputs_and_outputs_may_be_views_of_any_kind():
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.register_buffer("column", torch.randn(4, 3)[:, 0])

        def forward(self, x: torch.Tensor, conjugate: torch.Tensor, expanded: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.a(x) * self.column + conjugate.real + expanded
            return {"loss": y.square().mean(), "first": y[:, 0], "rotated": torch.complex(y, y).conj()}

    torch.manual_seed(0)
    model = Views()
    inputs = torch.randn(4, 2).t(), torch.randn(2, 4, dtype=torch.complex64).conj(), torch.randn(1, 4).expand(2, 4)
    inputs = torch.randn(4, 2).t(), inputs[1], inputs[2]
    verification = verify(model, schedule_of(capture(model, inputs)), inputs)
    assert verification.identical, verification.differences
    assert verification.nondeterministic == ()


@pytest.mark.slow
def test_another_form_than_the_planned_ones_is_refused():
    torch.manual_seed(0)
    model, small, large = nn.Linear(8, 8), torch.randn(4, 8), torch.randn(6, 8)
    schedule = remat_planner.plan(model, shapes=[small, torch.randn(5, 8)], budget="100%", loss=torch.sum)
    assert verify(model, schedule, (small,)).identical
    with pytest.raises(
        StaleScheduleError, match=r"planned for \[0\]: float32\[5, 8\]; for .*\[4, 8\], .* is \[0\]: float32\[6, 8\]"
    ):
        verify(model, schedule, (large,))
    with pytest.raises(StaleScheduleError, match="the model in evaluation mode"):
        verify(model.eval(), schedule, (small,))
    model.train()
    with pytest.raises(StaleScheduleError, match="strides"):
        verify(model, schedule, (torch.randn(8, 4).t(),))
    with torch.autocast("cpu"), pytest.raises(StaleScheduleError, match="autocast to bfloat16 on cpu"):
        verify(model, schedule, (small,))


@pytest.mark.slow
def test_a_head_without_a_gradient_is_compared(monkeypatch: pytest.MonkeyPatch):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    torch.manual_seed(0)
    model, x = Heads(), torch.randn(2, 4)
    schedule = schedule_of(capture(model, (x,)))
    verification = verify(model, schedule, (x,))
    assert verification.identical, verification.differences

    def with_zeros(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        first, second = self.model(*args, **kwargs)
        return first + 0 * second, second

    monkeypatch.setattr(PlannedCall, "__call__", with_zeros)
    differing = verify(model, schedule, (x,)).differences
    assert "step 3: gradient of b.weight" in differing
    assert "step 1: gradient of b.weight" not in differing


@pytest.mark.parametrize("cached", [True, False])
def test_a_planned_step_need_not_fill_a_cache_but_leaves_a_loss(cached: bool, monkeypatch: pytest.MonkeyPatch):
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.kept: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            loss = self.linear(x).square().mean()
            if not cached:
                self.kept = loss.detach()
            elif self.kept is None:
                self.kept = torch.ones(2)
            return loss

    torch.manual_seed(0)
    model, x = Keeping(), torch.randn(2, 4)
    schedule = schedule_of(capture(model, (x,)))

    def without_effects(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        before = self.model.kept
        output = self.model(*args, **kwargs)
        self.model.kept = before
        return output

    monkeypatch.setattr(PlannedCall, "__call__", without_effects)
    assert verify(model, schedule, (x,)).identical is cached
