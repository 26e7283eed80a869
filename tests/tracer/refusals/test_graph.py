"""State that a captured step would lose from one call to the next."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import ModelNotSupportedError, PythonStateError, StateReassignedError
from tests.tracer.cases import Written, linear, mean_square, noise


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_state_that_the_forward_replaces_is_named(kind: str):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x) + m.kept
        if kind == "parameter":
            m.kept = nn.Parameter(h.detach().mean(0))
        else:
            m.kept = h.detach().mean(0)
        return mean_square(h)

    model = Written(forward, a=linear())
    if kind == "buffer":
        model.register_buffer("kept", torch.zeros(16))
    else:
        model.kept = nn.Parameter(torch.zeros(16))
    before = model.kept
    with pytest.raises(StateReassignedError, match="kept") as caught:
        capture(model, (noise(),))
    assert caught.value.names == ("kept",)
    assert model.kept is before


def _counter_that_scales(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.state += 1
    return mean_square(m.a(x)) * m.state


def _history(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    m.seen.append(h.detach().mean())
    return mean_square(h)


def test_python_state_that_changes_from_step_to_step_is_named():
    inner = Written(_counter_that_scales, a=linear(), state=0)
    model = Written(lambda m, x: m.inner(x) + mean_square(m.b(x)), b=linear(), inner=inner)
    with pytest.raises(PythonStateError, match=r"inner\.state\. .*register_buffer") as caught:
        capture(model, (noise(),))
    assert caught.value.names == ("inner.state",)
    assert inner.state == 0


def test_python_state_that_settles_or_is_not_read_again_is_accepted():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        m.kept, m.shape, m.state = h.mean(), tuple(x.shape), 7
        return mean_square(h) + m.kept

    model = Written(forward, a=linear(), kept=None, shape=None, state=0)
    joint = capture(model, (noise(),))
    assert [effect.label for effect in joint.effects.made] == ["kept", "shape", "state"]
    assert (model.kept, model.shape, model.state) == (None, None, 0)


def test_a_list_that_grows_with_every_step_grows_with_every_planned_step_too():
    model = Written(_history, a=linear(), seen=[])
    assert [effect.label for effect in capture(model, (noise(),)).effects.made] == ["seen"]
    assert model.seen == []


@pytest.mark.slow
def test_a_parameter_reached_through_a_closure_is_refused():
    other = linear()
    with pytest.raises(ModelNotSupportedError, match=r"sends gradients into other \(variable of .*\)\.weight"):
        capture(Written(lambda m, x: mean_square(other(m.a(x))), a=linear()), (noise(),))
