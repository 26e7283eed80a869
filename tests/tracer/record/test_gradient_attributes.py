"""A forward that uses ``.grad`` is refused by name; PyTorch's own looks at it are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import UnsupportedOperatorError
from tests.tracer.cases import Written, mean_square


def sets(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.a.weight.grad = None
    return mean_square(m.a(x))


def clears(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.zero_grad()
    return mean_square(m.a(x))


def reads(m: Written, x: torch.Tensor) -> torch.Tensor:
    return mean_square(m.a(x)) * (1.0 if m.a.weight.grad is None else 2.0)


def asks_for(m: Written, x: torch.Tensor) -> torch.Tensor:
    return mean_square(m.a(x)) * (1.0 if getattr(m.a.weight, "grad", None) is None else 2.0)


def of_a_result(m: Written, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x.clone())
    y.grad = None
    return mean_square(y)


@pytest.mark.parametrize(("forward", "what"), [(sets, "sets"), (clears, "reads"), (reads, "reads"), (asks_for, "reads")])
def test_uses_of_gradients_are_refused(forward: Callable[..., torch.Tensor], what: str):
    with pytest.raises(UnsupportedOperatorError, match=rf"test_gradient_attributes.py:\d+: the forward {what} .grad"):
        capture(Written(forward, a=nn.Linear(3, 3)), (torch.randn(2, 3),))


def test_gradients_of_results_are_not():
    assert capture(Written(of_a_result, a=nn.Linear(3, 3)), (torch.randn(2, 3),)).gradients


@pytest.mark.parametrize("what", ["grad_fn", "is_leaf"])
def test_the_history_of_an_input_is_refused(what: str):
    def asks(m: Written, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        assert y.grad_fn is not None
        return mean_square(y) * (2.0 if getattr(x, what) else 1.0)

    model = Written(asks, a=nn.Linear(3, 3))
    assert capture(model, (torch.randn(2, 3),)).gradients  # without a gradient there is one answer
    with pytest.raises(UnsupportedOperatorError, match=rf"test_gradient_attributes.py:\d+: the forward reads .{what}"):
        capture(model, (torch.randn(2, 3, requires_grad=True),))


def differentiates_its_input(m: Written, x: torch.Tensor) -> torch.Tensor:
    x.requires_grad_(True)
    return torch.autograd.grad(mean_square(m.a(x)), x, create_graph=True)[0].square().sum()


def freezes(m: Written, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    m.a.bias.requires_grad = False
    return mean_square(y)


def differentiates_a_copy(m: Written, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(mean_square(m.a(x)), x, create_graph=True)[0].square().sum()


def freezes_for_a_part(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.requires_grad_(False)
    first = mean_square(m.a(x))
    m.requires_grad_(True)
    return first + mean_square(m.a(x + 1))


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (differentiates_its_input, "lets tensor input 0 require"),
        (freezes, "lets parameter a.bias no longer require"),
    ],
)
def test_a_forward_that_changes_what_requires_a_gradient_is_refused(forward: Callable[..., torch.Tensor], what: str):
    with pytest.raises(UnsupportedOperatorError, match=rf"test_gradient_attributes.py:\d+: the forward {what} a gradient"):
        capture(Written(forward, a=nn.Linear(3, 3)), (torch.randn(2, 3),))


@pytest.mark.parametrize("forward", [differentiates_a_copy, freezes_for_a_part])
def test_what_requires_a_gradient_afterwards_as_before_is_captured(forward: Callable[..., torch.Tensor]):
    assert capture(Written(forward, a=nn.Linear(3, 3)), (torch.randn(2, 3),)).gradients


def test_an_input_that_requires_a_gradient_already_is_captured():
    assert capture(Written(differentiates_its_input, a=nn.Linear(3, 3)), (torch.randn(2, 3, requires_grad=True),)).gradients
