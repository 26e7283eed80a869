"""Tensors without strides are refused by name, and blocks beside them are planned by regions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.tracer import capture
from remat_planner.tracer.errors import InputsDoNotFitError, ModelNotSupportedError, UnsupportedOperatorError
from tests.tracer.cases import Written, linear, mean_square, noise

_ADJACENCY = torch.eye(4)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_sparse_input_or_buffer_is_refused(layout: torch.layout):
    adjacency = _ADJACENCY.to_sparse(layout=layout)
    with pytest.raises(InputsDoNotFitError, match=rf"an input is a tensor of layout {layout}.*regions"):
        capture(Written(lambda m, x, a: mean_square(a @ m.a(x)), a=linear()), (noise(), adjacency))
    model = Written(lambda m, x: mean_square(m.adjacency @ m.a(x)), a=linear())
    model.register_buffer("adjacency", adjacency)
    with pytest.raises(ModelNotSupportedError, match=rf"adjacency is a tensor of layout {layout}"):
        capture(model, (noise(),))


MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "coo": lambda x: torch.sparse_coo_tensor(torch.stack([torch.arange(4)] * 2), torch.ones(4), (4, 4)) @ x,
    "csr": lambda x: torch.sparse_csr_tensor(torch.arange(5), torch.arange(4), torch.ones(4), (4, 4)) @ x,
    "to_sparse": lambda x: x.to_sparse().to_dense(),
    "mkldnn": lambda x: x.to_mkldnn().to_dense(),
    "jagged": lambda x: torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 4])).sin().values(),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_one_that_the_forward_makes_is_refused_with_its_line(make: Callable[[torch.Tensor], torch.Tensor]):
    with pytest.raises(UnsupportedOperatorError, match=r"test_layouts.py:\d+.*(makes a|nested).*regions"):
        capture(Written(lambda m, x: mean_square(make(m.a(x))), a=linear()), (noise(),))


def test_a_nested_input_is_refused():
    nested = torch.nested.as_nested_tensor([torch.ones(2, 16), torch.ones(3, 16)], layout=torch.jagged)
    with pytest.raises(InputsDoNotFitError, match="an input is a nested tensor"):
        capture(Written(lambda m, x: mean_square(m.a(x).values()), a=linear()), (nested,))


class Convolutions(nn.Module):
    """A graph network: its layers get dense features, the sparse products between them stay eager."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(2))

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = adjacency @ layer(x)
        return x.square().mean()


@pytest.mark.slow
def test_blocks_beside_a_sparse_product_are_planned_by_regions():
    torch.manual_seed(0)
    model, args = Convolutions(), (torch.randn(32, 16), torch.eye(32).to_sparse())
    schedule = remat_planner.plan(model, args, budget="100%", regions="layers.*", time_limit=2, verify=False)
    assert remat_planner.verify(model, schedule, args).identical


def test_a_higher_order_operator_is_named():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(torch.cond(h.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (h,)))

    with pytest.raises(UnsupportedOperatorError, match=r"test_layouts.py:\d+.*higher-order operator cond"):
        capture(Written(forward, a=linear()), (noise(),))
