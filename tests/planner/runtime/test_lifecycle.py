"""A planned module through everything that training code does with a module: as eager, or a clear error."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import logging
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner import apply_schedule, remove_schedule, trace
from remat_planner.planner.apply import is_applied, planned_call
from remat_planner.planner.codegen import segments as emit
from remat_planner.planner.errors import (
    AlreadyAppliedError,
    BackwardTwiceError,
    ChangedInBetweenError,
    DoubleBackwardError,
    NotAppliedError,
    UnexpectedGradientError,
)
from remat_planner.schedules import Schedule, StaleScheduleError
from remat_planner.tracer import capture, lower
from remat_planner.tracer.errors import LostHookError
from tests.planner.random_schedules import random_steps, schedule_of


class Net(nn.Module):
    """Convolution, batch norm, dropout, a counter, two outputs."""

    kind = "net"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.scale = 1.0
        self.note = ""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: torch.Tensor, *, times: int = 1) -> dict[str, Any]:
        self.steps.add_(1)
        h = self.features(x)
        for _ in range(times):
            h = F.dropout(torch.tanh(self.hidden(h)), 0.3, self.training)
            h = F.pad(h, (0, -2))
        return {"loss": self.head(F.pad(h, (0, 2))).pow(2).mean() * self.scale, "hidden": h, "times": times}


def build(seed: int = 0) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(seed)
    return Net().train(), torch.randn(4, 3, 6, 6)


def planned_net(seed: int = 1, **settings: Any) -> tuple[Any, Net, torch.Tensor]:
    """The planned module, an eager copy, an input."""
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x,), seed=seed, **settings)
    schedule = planned_call(ours).schedule
    assert len(schedule.steps) > len(schedule.graph.ops)
    return ours, eager, x


def planned(
    model: nn.Module,
    args: tuple[Any, ...],
    *,
    seed: int = 1,
    loss: Callable[[Any], torch.Tensor] | None = None,
    **settings: Any,
) -> Any:
    joint = capture(model, args, loss=loss)
    graph = lower(joint).graph
    steps = random_steps(graph, seed, evict=0.7, evict_again=0.1)
    return apply_schedule(model, schedule_of(joint, steps, graph=graph), **settings)


def gradients(model: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def equal(one: list[torch.Tensor | None], other: list[torch.Tensor | None]) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------ training loops


def test_accumulation_and_optimizer_steps():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            for micro in range(2):
                model(x + micro)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step != 1)
    assert same_state(ours, eager)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_their_backwards(order: tuple[int, int]):
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        losses = [model(x)["loss"], model(x * 2)["loss"]]
        for k in order:
            losses[k].backward()
    assert equal(gradients(ours), gradients(eager))
    assert same_state(ours, eager)


def test_two_forwards_in_one_loss():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        (model(x)["loss"] + model(x * 2)["loss"]).backward()
    assert equal(gradients(ours), gradients(eager))


def test_retain_graph_and_a_second_backward():
    ours, eager, x = planned_net()
    for model in (eager, ours):
        torch.manual_seed(5)
        loss = model(x)["loss"]
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        loss.backward()
    assert equal(gradients(ours), gradients(eager))
    with pytest.raises(BackwardTwiceError, match="retain_graph=True"):
        loss.backward()


def test_gradients_of_inputs_and_of_some_parameters():
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x.requires_grad_(),))
    results = []
    for model in (eager, ours):
        torch.manual_seed(5)
        inputs = x.detach().requires_grad_()
        loss = model(inputs)["loss"]
        results.append([*torch.autograd.grad(loss, [inputs, model.head.weight, model.conv.weight])])
        assert all(p.grad is None for p in model.parameters())
    assert equal(results[0], results[1])


def test_an_input_with_a_history():
    model, x = build()
    eager = copy.deepcopy(model)
    ours = planned(model, (x.requires_grad_(),))
    results = []
    for model in (eager, ours):
        torch.manual_seed(5)
        leaf = x.detach().requires_grad_()
        model(leaf * 3)["loss"].backward()
        results.append([leaf.grad])
    assert equal(results[0], results[1])


def test_an_output_that_gets_no_gradient_counts_as_zeros():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.a(x))
            return h, torch.tanh(self.b(h))

    torch.manual_seed(0)
    model, x = Two(), torch.randn(3, 4)
    eager = copy.deepcopy(model)
    ours = planned(model, (x,))
    for module in (eager, ours):
        module(x)[0].sum().backward()
    assert torch.equal(model.a.weight.grad, eager.a.weight.grad)
    assert torch.equal(model.b.weight.grad, torch.zeros(4, 4))


# ------------------------------------------------------------------------------------------------ hooks


class _Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.events.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_gradients_are_handed_over_as_soon_as_they_are_final(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emit, "_CALLS_BETWEEN_CUTS", 1)
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())])
    x = torch.randn(2, 8)
    ours = planned(model, (x,), loss=torch.sum)
    log = _Log()
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: log.events.append(f"hook {name}"))
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: log.events.append(f"after {name}"))
    loss = ours(x).sum()
    with log:
        loss.backward()
    multiplications = [k for k, event in enumerate(log.events) if event in ("aten::mm", "aten::addmm")]
    order = [event for event in log.events if event.startswith("after")]
    assert sorted(order) == sorted(f"after {name}" for name, _ in model.named_parameters())
    assert [event.split(".")[0] for event in order] == [f"after {k}" for k in (6, 6, 4, 4, 2, 2, 0, 0)]
    assert log.events.index("after 6.weight") < multiplications[-4]
    assert "aten::clone" not in log.events, "a gradient was copied on its way"


def test_hooks_on_the_planned_module_run_and_do_not_reach_the_model():
    ours, _, x = planned_net()
    calls: list[str] = []
    ours.register_forward_pre_hook(lambda module, args: calls.append("before"))
    ours.register_forward_hook(lambda module, args, output: calls.append("after"))
    ours(x)["loss"].backward()
    assert calls == ["before", "after"]
    remove_schedule(ours)(x)
    assert calls == ["before", "after"]


def test_hooks_of_parameters_run_in_every_step():
    ours, eager, x = planned_net()
    calls: dict[str, list[str]] = {"ours": [], "eager": []}
    for name, module in (("eager", eager), ("ours", ours)):
        module.hidden.weight.register_hook(lambda gradient, name=name: calls[name].append("before"))
        module.conv.weight.register_hook(lambda gradient: gradient * 3)
        module.hidden.weight.register_post_accumulate_grad_hook(lambda _, name=name: calls[name].append("after"))
        for seed in (5, 6):
            torch.manual_seed(seed)
            module(x)["loss"].backward()
    assert calls["ours"] == calls["eager"] == ["before", "after"] * 2
    assert equal(gradients(ours), gradients(eager))


def test_a_hook_that_comes_later_is_planned_with_or_refused():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def trained_alike() -> bool:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        return equal(gradients(ours), gradients(eager))

    handle = ours.hidden.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(LostHookError, match="forward hook of hidden"):
        ours(x)
    handle.remove()
    calls.clear()
    assert trained_alike()
    assert not calls, "without the hook the first plan holds"
    handles = [m.hidden.register_full_backward_hook(lambda _, gradients, __: (gradients[0] * 2,)) for m in (ours, eager)]
    assert trained_alike()
    assert len(calls) == 1
    copied = copy.deepcopy(ours)
    torch.manual_seed(5)
    copied.zero_grad()
    copied(x)["loss"].backward()
    assert equal(gradients(copied), gradients(eager))
    assert len(calls) == 1, "the copy has the same hooks"
    for handle in handles:
        handle.remove()
    assert trained_alike()
    assert len(calls) == 1


def test_a_tensor_that_the_forward_stores_is_told_of(caplog: pytest.LogCaptureFixture):
    class Remembers(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = self.features(x)
            return self.last.square().mean()

    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING, logger="planner"):
        trace(Remembers(), (torch.randn(2, 3, 4, 4),), costs="h100")
    assert caplog.messages == ["the forward stores a tensor in attribute last; the planned module does not"]


# ------------------------------------------------------------------------------------------------ modes


def test_evaluation_and_no_grad_run_the_models_own_forward():
    ours, eager, x = planned_net()
    other = torch.randn(2, 3, 5, 5)  # a form that nobody planned
    with torch.no_grad():
        torch.manual_seed(5)
        found = ours(other)["loss"]
        torch.manual_seed(5)
        assert torch.equal(found, eager(other)["loss"])
    ours.eval()
    eager.eval()
    assert not remove_schedule(ours).training
    assert not ours.norm.training
    ours(x)["loss"].backward()
    eager(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))
    remove_schedule(ours).train()
    assert ours.training
    assert same_state(ours, eager)


def test_ambient_autocast_is_part_of_the_plan():
    model, x = build()
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = planned(model, (x,))
    for module in (eager, ours):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = module(x)["loss"]
        loss.backward()
    assert equal(gradients(ours), gradients(eager))
    assert ours.hidden.weight.grad.dtype is torch.float32


# ------------------------------------------------------------------------------------------------ it is still the model


def test_the_planned_module_is_the_model_in_all_but_forward():
    ours, eager, x = planned_net()
    model = remove_schedule(ours)
    assert isinstance(ours, Net)
    assert type(ours).__name__ == "Net"
    assert list(ours.state_dict()) == list(eager.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in eager.named_parameters()]
    assert all(a is b for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert ours.kind == "net"
    assert ours.features(x).shape == (4, 6)
    assert is_applied(ours)
    assert not is_applied(model)
    ours.note = "shared"
    assert model.note == "shared"
    saved = io.BytesIO()
    torch.save(ours.state_dict(), saved)
    ours.load_state_dict({name: torch.zeros_like(t) for name, t in eager.state_dict().items()})
    assert not model.head.weight.any()
    saved.seek(0)
    ours.load_state_dict(torch.load(saved))
    for module in (eager, ours):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))


def test_the_model_itself_stays_eager():
    ours, eager, _ = planned_net()
    model, other = remove_schedule(ours), torch.randn(2, 3, 5, 5)
    assert type(model) is Net
    for module in (eager, model):
        torch.manual_seed(5)
        module(other)["loss"].backward()
    assert equal(gradients(model), gradients(eager))
    with pytest.raises(NotAppliedError, match="Net has no schedule"):
        remove_schedule(model)


def test_applying_twice_is_an_error_and_again_after_removal_is_not():
    ours, _, x = planned_net()
    schedule = planned_call(ours).schedule
    with pytest.raises(AlreadyAppliedError, match="remove_schedule"):
        apply_schedule(ours, schedule)
    again = apply_schedule(remove_schedule(ours), schedule)
    again(x)["loss"].backward()


def test_copies_train_on_their_own():
    ours, eager, x = planned_net()
    copied = copy.deepcopy(ours)
    assert is_applied(copied)
    assert remove_schedule(copied) is not remove_schedule(ours)
    assert planned_call(copied).programs, "the copy has to capture again"
    for module in (eager, copied):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(copied), gradients(eager))
    assert same_state(copied, eager)
    assert all(p.grad is None for p in ours.parameters())
    assert ours.steps == 0
    assert not is_applied(copy.deepcopy(remove_schedule(ours)))


def test_the_planned_module_can_be_pickled():
    ours, eager, x = planned_net()
    copied = pickle.loads(pickle.dumps(ours))
    for module in (eager, copied):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert len(planned_call(copied).programs) == 1
    assert equal(gradients(copied), gradients(eager))


def test_a_replaced_forward_is_called():
    ours, _, x = planned_net()
    before = ours.forward
    ours.forward = lambda *args, **kwargs: {"wrapped": before(*args, **kwargs)}
    assert "loss" in ours(x)["wrapped"]
    del ours.forward
    assert "loss" in ours(x)


def test_unwrapping_ends_at_the_planned_forward():
    ours, eager, _ = planned_net()
    assert inspect.signature(ours.forward) == inspect.signature(eager.forward)
    assert inspect.unwrap(ours.forward) == ours.forward, "who takes wrappers off takes the plan off"


def test_a_forward_with_all_frozen_is_eager():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))
    for module in (ours, eager):
        module.requires_grad_(False)
    torch.manual_seed(5)
    found = ours(x)["loss"]
    torch.manual_seed(5)
    assert torch.equal(found, eager(x)["loss"])
    assert not found.requires_grad
    assert not calls


# ------------------------------------------------------------------------------------------------ other inputs, other models


def replanning(calls: list[tuple[int, ...]]) -> Callable[..., Schedule]:
    def replan(model: nn.Module, args: tuple[Any, ...], kwargs: Any, like: Schedule) -> Schedule:
        calls.append(tuple(args[0].shape))
        joint = capture(model, args, kwargs)
        graph = lower(joint).graph
        return schedule_of(joint, random_steps(graph, 7), graph=graph)

    return replan


def test_another_form_of_input_is_planned_once(caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))
    small = torch.randn(2, 3, 6, 6)
    with caplog.at_level(logging.WARNING, logger="planner"):
        for inputs, times in ((x, 1), (small, 1), (x, 1), (small, 1), (x, 2), (small, 1), (x, 2)):
            for module in (eager, ours):
                torch.manual_seed(5)
                module(inputs, times=times)["loss"].backward()
            assert equal(gradients(ours), gradients(eager)), (inputs.shape, times)
    # The plan was made for a call without ``times``, so every one of these three forms is new.
    assert calls == [(4, 3, 6, 6), (2, 3, 6, 6), (4, 3, 6, 6)]
    assert len(caplog.records) == 3
    assert "[2, 3, 6, 6]" in caplog.text


def test_python_values_that_change_are_planned_with(caplog: pytest.LogCaptureFixture):
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def trained_alike() -> bool:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        return equal(gradients(ours), gradients(eager))

    for name, value, plans in (("note", "unread", 0), ("scale", 3.0, 1), ("scale", 1.0, 1), ("note", "still unread", 1)):
        for module in (eager, ours):
            setattr(module, name, value)
        with caplog.at_level(logging.WARNING, logger="planner"):
            assert trained_alike(), (name, value)
        assert len(calls) == plans, (name, value)
    assert "to see what that does: scale" in caplog.text


def test_a_model_that_changed_is_planned_again():
    calls: list[tuple[int, ...]] = []
    ours, eager, x = planned_net(replan=replanning(calls))

    def train_alike(expected_plans: int) -> None:
        for module in (eager, ours):
            module.zero_grad()
            torch.manual_seed(5)
            module(x)["loss"].backward()
        assert equal(gradients(ours), gradients(eager))
        assert len(calls) == expected_plans

    train_alike(0)
    for module in (eager, ours):
        module.conv.weight.requires_grad_(False)
    train_alike(1)
    torch.manual_seed(9)
    replacement = nn.Linear(8, 4)
    ours.head, eager.head = replacement, copy.deepcopy(replacement)
    train_alike(2)
    for module in (eager, ours):
        module.norm.eval()
    train_alike(3)
    for module in (eager, ours):
        module.head.weight = nn.Parameter(module.head.weight.detach() * 2)  # of the same form: no new plan
    train_alike(3)


def test_schedules_of_other_models_are_refused(tmp_path: Any):
    import remat_planner

    model, x = build()
    schedule = remat_planner.plan(model, (x,), budget="100%", costs="h100")
    wider = Net()
    wider.head = nn.Linear(8, 5)
    with pytest.raises(StaleScheduleError, match=r"head\.weight") as caught:
        apply_schedule(wider, schedule)
    assert any("head.bias" in line for line in caught.value.differences)

    schedule.save(tmp_path / "net.schedule.json")
    loaded = Schedule.load(tmp_path / "net.schedule.json")

    class Other(Net):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.norm(self.conv(x))).mean((2, 3))

    other = apply_schedule(Other(), loaded)
    with pytest.raises(StaleScheduleError, match="sigmoid"):
        other(x)
    ours = apply_schedule(model, loaded)
    eager = copy.deepcopy(model)
    for module in (eager, ours):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))


# ------------------------------------------------------------------------------------------------ errors


def test_a_parameter_changed_between_forward_and_backward_is_named():
    ours, _, x = planned_net()
    loss = ours(x)["loss"]
    with torch.no_grad():
        ours.hidden.weight.add_(1)
    with pytest.raises(ChangedInBetweenError, match=r"parameter hidden\.weight") as caught:
        loss.backward()
    assert caught.value.names == ("parameter hidden.weight",)


def test_a_kept_output_changed_between_forward_and_backward_is_named():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(2, 4)
    joint = capture(model, (x,))
    ours = apply_schedule(model, schedule_of(joint))
    output = ours(x)
    loss = output.sum()
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(ChangedInBetweenError, match="output"):
        loss.backward()


def test_an_output_that_nothing_keeps_may_be_changed():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 6)), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    ours = planned(model, (x,))
    for module in (eager, ours):
        output = module(x)
        output /= 2
        output.relu_()
        output.backward(torch.ones_like(output))
    assert equal(gradients(ours), gradients(eager))


def test_gradients_of_gradients_are_refused():
    ours, _, x = planned_net()
    with pytest.raises(DoubleBackwardError, match="create_graph"):
        torch.autograd.grad(ours(x)["loss"], [ours.head.weight], create_graph=True)


def test_a_gradient_that_the_plan_did_not_expect_is_refused():
    ours, _, x = planned_net()
    output = ours(x)
    with pytest.raises(UnexpectedGradientError, match="hidden") as caught:
        (output["loss"] + output["hidden"].sum()).backward()
    assert "hidden" in caught.value.output


class _Failing(TorchDispatchMode):
    """Fails at the n-th operator, as when memory runs out."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise MemoryError("out of memory")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("after", [1, 3, 9, 16])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_failure_in_the_middle_leaves_nothing_behind(where: str, after: int):
    ours, eager, x = planned_net()
    buffers = [b.clone() for b in ours.buffers()]
    if where == "forward":
        with pytest.raises(MemoryError), _Failing(after):
            ours(x)
    else:
        loss = ours(x)["loss"]
        with pytest.raises(MemoryError), _Failing(after):
            loss.backward()
        with pytest.raises(BackwardTwiceError):
            loss.backward()
    ours.zero_grad()
    for buffer, before in zip(ours.buffers(), buffers, strict=True):
        buffer.copy_(before)
    for module in (eager, ours):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))
    assert same_state(ours, eager)


def test_a_failed_replay_leaves_the_generator_as_it_was():
    ours, _, x = planned_net()
    torch.manual_seed(5)
    loss = ours(x)["loss"]
    state = torch.get_rng_state()
    for after in range(40):
        with pytest.raises(MemoryError), _Failing(after):
            loss.backward(retain_graph=True)
        assert torch.equal(torch.get_rng_state(), state), after
        if after == 12:
            break


def test_dropped_outputs_leave_nothing_alive():
    ours, _, x = planned_net()
    gc.collect()
    gc.disable()
    try:
        output = ours(x)
        models_own = {id(t) for t in (x, *ours.parameters(), *ours.buffers())}
        kept = [weakref.ref(t) for t in output["loss"].grad_fn.state.store if t is not None and id(t) not in models_own]
        assert kept
        del output
        assert [ref for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


def test_the_planned_module_is_freed_with_its_last_reference():
    ours, _, x = planned_net()
    ours(x)["loss"].backward()
    parameter = weakref.ref(ours.conv.weight)
    planned_call(ours).programs[0].joint.model = None  # the capture of a live schedule knows its model
    del ours
    assert parameter() is None


def test_nothing_of_the_applier_runs_in_a_dispatch_mode():
    ours, _, x = planned_net()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

            assert _get_current_dispatch_mode_stack() == []
            return func(*args, **(kwargs or {}))

    with Seen():
        ours(x)["loss"].backward()
