"""The planned module is the model in all but its forward: state, modes, copies, pickles."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from remat_planner import apply_schedule, plan, remove_schedule
from remat_planner.planner.apply import is_applied, planned_call
from remat_planner.planner.errors import (
    AlreadyAppliedError,
    NotAppliedError,
)
from tests.planner.runtime.planned_net import (
    Net,
    equal,
    gradients,
    planned_net,
    same_state,
)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_applying_twice_is_an_error_and_again_after_removal_is_not():
    ours, _, x = planned_net()
    schedule = planned_call(ours).schedule
    with pytest.raises(AlreadyAppliedError, match="remove_schedule"):
        apply_schedule(ours, schedule)
    again = apply_schedule(remove_schedule(ours), schedule)
    again(x)["loss"].backward()


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_planned_module_can_be_pickled():
    ours, eager, x = planned_net()
    copied = pickle.loads(pickle.dumps(ours))
    for module in (eager, copied):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert len(planned_call(copied).programs) == 1
    assert equal(gradients(copied), gradients(eager))


@pytest.mark.slow
def test_a_replaced_forward_is_called():
    ours, _, x = planned_net()
    before = ours.forward
    ours.forward = lambda *args, **kwargs: {"wrapped": before(*args, **kwargs)}
    assert "loss" in ours(x)["wrapped"]
    del ours.forward
    assert "loss" in ours(x)


@pytest.mark.slow
def test_unwrapping_ends_at_the_planned_forward():
    ours, eager, _ = planned_net()
    assert inspect.signature(ours.forward) == inspect.signature(eager.forward)
    assert inspect.unwrap(ours.forward) == ours.forward, "who takes wrappers off takes the plan off"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_tensor_that_the_forward_stores_is_stored_by_the_planned_module_too():
    class Remembers(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.features(x)
            self.last = features.abs().mean()
            return features.square().mean()

    torch.manual_seed(0)
    eager, x = Remembers().train(), torch.randn(2, 3, 4, 4)
    model = copy.deepcopy(eager)
    ours = apply_schedule(model, plan(model, (x,), budget="100%", solver="none"))
    for network in (eager, ours):
        (network(x) + network.last).backward()
    assert torch.equal(ours.last, eager.last)
    assert equal(gradients(ours), gradients(eager))


class Doubled(nn.Module):
    """Its class changes what a call returns, around the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 6), 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return super().__call__(*args, **kwargs) * 2

    def forward(self, x):
        return self.layer(x).tanh()


@pytest.mark.parametrize("regions", [None, "auto"])
def test_what_a_class_does_around_its_forward_is_done_once(regions):
    eager = nn.Sequential(Doubled(), Doubled()) if regions else Doubled()
    model, x = copy.deepcopy(eager), torch.randn(4, 6)
    schedule = plan(model, (x,), budget="100%", loss=torch.mean, solver="none", regions=regions, verify=False)
    ours = apply_schedule(model, schedule)
    for training in (True, False):
        values = [module.train(training)(x).mean() for module in (ours, eager)]
        assert torch.equal(*values)
        for value in values if training else ():
            value.backward()
    assert equal(gradients(ours), gradients(eager))
    assert [m.calls for m in ours.modules() if isinstance(m, Doubled)] == [2] * (2 if regions else 1)
