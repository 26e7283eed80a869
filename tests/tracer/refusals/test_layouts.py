"""Tensors without strides are refused by name where they cannot be planned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import (
    DataDependentError,
    InputsDoNotFitError,
    ModelNotSupportedError,
    UnsupportedOperatorError,
)
from tests.tracer.cases import Written, linear, mean_square, noise


def _jagged(**options: bool) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 16), torch.ones(3, 16)], layout=torch.jagged, **options)


@pytest.mark.parametrize("make", [lambda: torch.eye(4).to_sparse().requires_grad_(), lambda: _jagged(requires_grad=True)])
def test_one_that_requires_a_gradient_is_refused_as_an_input(make: Callable[[], torch.Tensor]):
    with pytest.raises(InputsDoNotFitError, match=r"an input is a .* requires a gradient.*Make its values the parameter"):
        capture(Written(lambda m, x, a: mean_square(a @ m.a(x)), a=linear()), (noise(), make()))


def test_a_quantized_buffer_is_refused():
    model = Written(lambda m, x: mean_square(m.a(x) @ m.kept.dequantize()), a=linear())
    model.register_buffer("kept", torch.quantize_per_tensor(torch.ones(16, 16), 0.1, 0, torch.qint8))
    with pytest.raises(ModelNotSupportedError, match="kept is a quantized tensor"):
        capture(model, (noise(),))


def test_a_sparse_parameter_is_refused():
    model = Written(lambda m, x: mean_square(m.adjacency @ m.a(x)), a=linear())
    model.adjacency = nn.Parameter(torch.eye(4).to_sparse())
    with pytest.raises(
        ModelNotSupportedError, match=r"adjacency is a tensor of layout torch.sparse_coo and requires a gradient"
    ):
        capture(model, (noise(),))


MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mkldnn": lambda x: x.to_mkldnn().to_dense(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() + x,
    "nested with strides": lambda x: torch.cat(list(torch.nested.as_nested_tensor([x[:1], x[1:]]).sin().unbind())),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_one_that_the_forward_makes_is_refused_with_its_line(make: Callable[[torch.Tensor], torch.Tensor]):
    with pytest.raises(
        UnsupportedOperatorError, match=r"test_layouts.py:\d+.*makes a nested or quantized.*regions.*layout=torch.jagged"
    ):
        capture(Written(lambda m, x: mean_square(make(m.a(x))), a=linear()), (noise(),))


def test_a_number_of_entries_that_depends_on_activations_is_refused():
    with pytest.raises(DataDependentError, match=r"test_layouts.py:\d+.*aten._to_sparse.*number of entries"):
        capture(Written(lambda m, x: mean_square(m.a(x).to_sparse().to_dense()), a=linear()), (noise(),))


def test_a_sparse_tensor_that_is_changed_in_place_is_refused():
    def forward(m: Written, x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return mean_square(a.mul_(2.0) @ m.a(x))

    with pytest.raises(UnsupportedOperatorError, match=r"test_layouts.py:\d+.*changes a sparse tensor in place"):
        capture(Written(forward, a=linear()), (noise(), torch.eye(4).to_sparse()))


@pytest.mark.parametrize(
    "make", [lambda x: x.detach().sin().to_sparse(), lambda x: _jagged() * x.sum()], ids=["sparse", "jagged"]
)
def test_one_that_the_forward_returns_is_refused(make: Callable[[torch.Tensor], torch.Tensor]):
    with pytest.raises(UnsupportedOperatorError, match="returns or stores a"):
        capture(Written(lambda m, x: (mean_square(m.a(x)), make(x)), a=linear()), (noise(),))


def test_a_jagged_attribute_is_refused():
    model = Written(lambda m, x: mean_square((m.kept * m.a(x).sum()).values()), a=linear(), kept=None)
    model.kept = _jagged()
    with pytest.raises(ModelNotSupportedError, match="no input and is nested"):
        capture(model, (noise(),))


def test_a_higher_order_operator_is_named():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(torch.ops.higher_order.strict_mode(lambda y: y.sin(), (m.a(x),)))

    with pytest.raises(UnsupportedOperatorError, match=r"test_layouts.py:\d+.*higher-order operator strict_mode"):
        capture(Written(forward, a=linear()), (noise(),))
