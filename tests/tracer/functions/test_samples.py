"""One run on sample tensors shows where the results of a Function lie, and what it changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from remat_planner.tracer.functions.backward_call import BackwardCall
from remat_planner.tracer.functions.call import Results
from remat_planner.tracer.functions.errors import FunctionVariesError, SampleError
from remat_planner.tracer.functions.forms import Place
from remat_planner.tracer.functions.forward_call import ForwardCall
from remat_planner.tracer.functions.samples import sample
from tests.tracer.launched import Doubled, Dropped, Gated, Scaled, Several, Tanh, Turned


def _sampled(function: type[torch.autograd.Function], *args: Any) -> tuple[ForwardCall, Results]:
    call, _ = ForwardCall.of(function, args)
    sample(call)
    return call, call.sampled


def _noise() -> torch.Tensor:
    return torch.randn(4, 16, requires_grad=True)


def test_equal_calls_are_one():
    x = _noise()
    assert ForwardCall.of(Scaled, (x, 2.0))[0] is ForwardCall.of(Scaled, (_noise(), 2.0))[0]
    others = [(x, 3.0), (x, 2), (x.detach(), 2.0), (x.t(), 2.0)]
    assert len({ForwardCall.of(Scaled, args)[0].number for args in others}) == 4
    with torch.no_grad():
        assert not ForwardCall.of(Scaled, (x, 2.0))[0].differentiated


def test_results_are_located():
    call, results = _sampled(Tanh, _noise())
    assert (results.returned, results.kept, results.changed) == ((Place(True, 0),), (Place(True, 0),), ())
    assert not results.is_tuple
    assert call.read_in_backward == ((), (0,))


def test_changes_by_address_are_found():
    assert _sampled(Turned, _noise())[1].changed == (0,)
    results = _sampled(Doubled, _noise())[1]
    assert (results.changed, results.dirty, results.returned) == ((0,), (0,), (Place(False, 0),))
    call, results = _sampled(Gated, _noise(), _noise())
    assert results.changed == ()
    backward = BackwardCall.of(call, [torch.ones(4, 16)])
    sample(backward)
    assert backward.sampled.changed == (1, 2)  # after the token
    assert backward.sampled.returned == (Place(False, 1), Place(False, 2))


def test_draws_are_found():
    assert _sampled(Dropped, _noise())[1].draws
    assert not _sampled(Tanh, _noise())[1].draws


def test_what_a_forward_says_is_kept():
    results = _sampled(Several, _noise())[1]
    assert results.is_tuple
    assert results.not_differentiable == (2,)
    assert results.returned[3] is None


def test_a_run_has_the_bits_of_eager_and_leaves_its_arguments_alone():
    x = _noise()
    call, _ = _sampled(Turned, x)
    before = x.detach().clone()
    changed, token = call.run([x.detach()])
    assert torch.equal(x, before)
    assert torch.equal(changed, -before)
    assert token.numel() == 0


class Varying(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone() if (x > 0).all() else x[x > 0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_other_results_than_planned_are_refused():
    call, _ = _sampled(Varying, _noise())
    assert call.run([torch.ones(4, 16)])[0].shape == (4, 16)
    with pytest.raises(FunctionVariesError, match=r"Varying returned .* strides"):
        call.run([torch.randn(4, 16)])


class Holder:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Hiding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.holder = Holder(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ctx.holder.x


class Counting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x.clone(), 3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> torch.Tensor:
        return gradient


class Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        return x.clone().chunk(2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return torch.cat(gradients)


class WithGraph(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            ctx.result = x.detach().requires_grad_().sin()
        return ctx.result.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        ctx.result.backward(gradient)


@pytest.mark.parametrize(
    ("function", "text"),
    [(Hiding, "inside of an object"), (Counting, "type int"), (Halves, "share their memory"), (WithGraph, "autograd graph")],
)
def test_what_cannot_be_one_operator_is_refused(function: type[torch.autograd.Function], text: str):
    with pytest.raises(SampleError, match=text):
        _sampled(function, _noise())
