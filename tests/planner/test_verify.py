"""``verify`` tells a correct plan from a wrong one, and leaves the model as it was."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner import apply_schedule, verify
from remat_planner.planner.regions import planned_regions
from remat_planner.planner.runtime.planned_call import PlannedCall
from remat_planner.schedules import Schedule, StaleScheduleError
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import ZOO, Case


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def case_of(name: str) -> Case:
    torch.manual_seed(0)
    return ZOO[name]()


def state_of(model: nn.Module) -> dict[str, Any]:
    named = {name: t.clone() for name, t in model.state_dict().items()}
    named |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return named | {"training": model.training, "random": torch.get_rng_state()}


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def same(name: str) -> bool:
        one, other = before[name], after[name]
        return one is other if name.startswith("gradient") else torch.equal(torch.as_tensor(one), torch.as_tensor(other))

    return before.keys() == after.keys() and all(map(same, before))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_sequential", "batch_norm_and_counter", "in_place_and_views", "tied_and_shared"])
def test_a_plan_holds_when_run(name: str):
    case = case_of(name)
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget="100%", loss=case.loss, time_limit=5)
    before = state_of(case.model)
    verification = verify(case.model, schedule, case.args, case.kwargs)
    assert unchanged(before, state_of(case.model))
    assert verification.identical, verification.differences
    assert verification.within_budget
    assert verification.nondeterministic == ()
    assert verification.predicted_peak_bytes == schedule.peak_bytes
    assert abs(verification.measured_peak_bytes / verification.predicted_peak_bytes - 1) < 0.02


@pytest.mark.slow
def test_a_planned_model_can_be_verified_too():
    case = case_of("batch_norm_and_counter")
    joint = capture(case.model, case.args)
    graph = lower(joint).graph
    schedule = schedule_of(joint, random_steps(graph, 3), graph=graph)
    planned = apply_schedule(case.model, schedule)
    assert verify(planned, schedule, case.args).identical


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_sequential", "low_rank", "in_place_and_views", "channels_last"])
def test_a_schedule_from_a_file_finds_what_its_loss_reads(name: str, tmp_path: Any):
    case = case_of(name)
    remat_planner.plan(case.model, case.args, budget="100%", loss=case.loss, costs="h100", time_limit=5).save(
        tmp_path / "it.schedule.json"
    )
    loaded = Schedule.load(tmp_path / "it.schedule.json")
    assert verify(case.model, loaded, case.args, loss=case.loss).identical
    eager = copy.deepcopy(case.model)
    planned = apply_schedule(case.model, loaded)
    for module in (eager, planned):
        torch.manual_seed(5)
        case.loss(module(*case.args)).backward()
    for ours, theirs in zip(case.model.parameters(), eager.parameters(), strict=True):
        assert ours.grad is None if theirs.grad is None else torch.equal(ours.grad, theirs.grad)


@pytest.mark.slow
def test_a_loss_that_cannot_be_found_has_to_be_given(tmp_path: Any):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 4), torch.randn(2, 4)

    def mixed(output: torch.Tensor) -> torch.Tensor:
        return output.t().contiguous().sum(0).pow(2).sum() + output.double().sum()  # a float64 loss of a float32 output

    remat_planner.plan(model, (x,), budget="100%", loss=lambda output: mixed(output)[None], costs="h100").save(
        tmp_path / "a.json"
    )
    loaded = Schedule.load(tmp_path / "a.json")
    with pytest.raises(StaleScheduleError, match="loss"):
        verify(model, loaded, (x,))
    assert verify(model, loaded, (x,), loss=lambda output: mixed(output)[None]).identical


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_the_loss_of_a_schedule_from_a_file_may_leave_its_result_in_a_large_buffer(given: bool, tmp_path: Any):
    def loss(output: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(output, torch.zeros(32, 32))

    torch.manual_seed(0)
    model, x = nn.Linear(32, 32), torch.randn(32, 32)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=loss)
    made = next(op for op in schedule.graph.ops if op.outside)
    scalar = next(value for value in map(schedule.graph.values.__getitem__, made.writes) if value.name == "loss")
    assert schedule.graph.storages[scalar.storage].bytes == x.nbytes, "as PyTorch does on the CPU"
    schedule.save(tmp_path / "a.json")
    eager = copy.deepcopy(model)
    planned = apply_schedule(model, Schedule.load(tmp_path / "a.json"), **({"loss": loss} if given else {}))
    for module in (eager, planned):
        loss(module(x)).backward()
    assert torch.equal(model.weight.grad, eager.weight.grad)


@pytest.mark.slow
def test_a_peak_over_the_budget_is_reported():
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    tight = dataclasses.replace(schedule, budget=schedule.graph.constant_bytes + 1000)
    verification = verify(case.model, tight, case.args, loss=case.loss)
    assert verification.identical
    assert not verification.within_budget
    assert verification.measured_peak_bytes > verification.budget_bytes == tight.budget


@pytest.mark.slow
def test_differing_tensors_are_named(monkeypatch: pytest.MonkeyPatch):
    case = case_of("plain_sequential")
    joint = capture(case.model, case.args, loss=case.loss)
    schedule = schedule_of(joint)
    run = PlannedCall.__call__

    def slightly_off(self: PlannedCall, args: Any, kwargs: Any) -> Any:
        return run(self, (args[0] * (1 + 2**-20), *args[1:]), kwargs)

    monkeypatch.setattr(PlannedCall, "__call__", slightly_off)
    verification = verify(case.model, schedule, case.args, loss=case.loss)
    assert not verification.identical
    assert "step 1: output 0" in verification.differences
    assert "step 1: gradient of 0.weight" in verification.differences
    assert not any("random state" in name for name in verification.differences)


_calls = itertools.count(1)  # no state that could be put back
_calls_alike = range(0)


@torch.library.custom_op("tests_verify::unsteady", mutates_args=())
def unsteady(x: torch.Tensor, always: bool) -> torch.Tensor:
    """Another result in each call, but for those of ``_calls_alike`` where not ``always``."""
    call = next(_calls)
    return x * (1 if call in _calls_alike and not always else call)


unsteady.register_fake(lambda x, always: torch.empty_like(x))
unsteady.register_autograd(
    lambda ctx, gradient: (unsteady(gradient, ctx.always), None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "always", inputs[1]),
)


class Unsteady(nn.Module):
    """One head runs a kernel that never repeats itself, another one a kernel that does so for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return unsteady(self.a(x), True), unsteady(self.b(x), False), self.c(x)


@pytest.mark.slow
def test_tensors_that_eager_does_not_repeat_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model, x = Unsteady(), torch.randn(2, 4)
    schedule = schedule_of(capture(model, (x,)))
    for alike in (0, 2 * (4 + 4 + 3)):  # the calls in two runs of eager, which repeats the second head in those
        start = next(_calls) + 1
        monkeypatch.setattr(f"{__name__}._calls_alike", range(start, start + alike))
        verification = verify(model, schedule, (x,))
        for head in "ab":
            assert f"step 1: gradient of {head}.weight" in verification.nondeterministic
        assert {"step 1: output 0", "step 1: output 1"} <= set(verification.nondeterministic)
        assert not any("gradient of c" in name or "parameter" in name for name in verification.nondeterministic)
        assert verification.identical, verification.differences
        assert verification.largest_difference == 0.0


def test_inputs_that_the_forward_changes_are_put_back():
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.mul_(2)
            return self.a(x).sum()

    torch.manual_seed(0)
    model, x = Changing(), torch.randn(2, 4)
    before = x.clone()
    verification = verify(model, schedule_of(capture(model, (x,))), (x,))
    assert verification.identical, verification.differences
    assert torch.equal(x, before)


def test_a_nan_is_the_same_nan():
    model, x = nn.Linear(4, 1), torch.full((2, 4), torch.nan)
    verification = verify(model, schedule_of(capture(model, (x,), loss=torch.mean)), (x,), loss=torch.mean)
    assert verification.identical
    assert verification.nondeterministic == ()


@pytest.mark.slow
def test_the_model_may_be_copied_afterwards():
    case = case_of("plain_sequential")
    schedule = schedule_of(capture(case.model, case.args, loss=case.loss))
    verify(case.model, schedule, case.args, loss=case.loss)
    assert type(copy.deepcopy(case.model)) is nn.Sequential


@pytest.mark.slow
def test_planned_regions_are_on_the_model_again_afterwards():
    torch.manual_seed(0)
    model, x = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))), torch.randn(4, 8)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=torch.sum, regions="[0-1]", costs="measure")
    verify(model, schedule, (x,), loss=torch.sum)
    assert planned_regions(model) == {}
    apply_schedule(model, schedule)
    forwards = planned_regions(model)
    assert list(forwards) == ["0", "1"]
    assert verify(model, schedule, (x,), loss=torch.sum).identical
    assert planned_regions(model) == forwards
    with pytest.raises(StaleScheduleError, match=r"planned for \[0\].*this call is \[0\].*\[1\]"):
        verify(model, schedule, (x, x), loss=torch.sum)
    assert planned_regions(model) == forwards


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
