"""The private names behind ``planner.torch_symbols`` do what it says."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import UserError, UserErrorType
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError, DimDynamic, ShapeEnv, StatelessSymbolicContext

from remat_planner.planner.torch_symbols import (
    added_condition,
    bounds_of,
    constraint_violated,
    environment_of,
    grows_to,
    is_marked,
    is_symbolic_number,
    names_of,
    number_at,
    number_now,
    shape_expressions,
    symbols_in,
    tensor_at,
)


@pytest.fixture
def fake() -> torch.Tensor:
    """8 rows, which may be others."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    return mode.from_tensor(torch.ones(8, 3), source=ConstantSource("x"), symbolic_context=context)


def test_a_symbol_and_what_is_known_about_it(fake: torch.Tensor):
    (symbol,) = symbols_in(fake)
    environment = environment_of(fake)
    assert environment is environment_of(fake.shape[0])
    assert (number_now(environment, symbol), bounds_of(environment, symbol)) == (8, (2, None))
    assert names_of(environment, symbol) == ["x.size()[0]"]
    assert is_symbolic_number(fake.shape[0])
    assert not is_symbolic_number(fake.shape[1])
    assert shape_expressions(fake.t()) == {symbol}
    assert not is_marked(environment, symbol)
    added_condition(environment, symbol, 20)
    assert bounds_of(environment, symbol) == (2, 20)


def test_numbers_and_tensors_at_other_sizes(fake: torch.Tensor):
    (symbol,) = symbols_in(fake)
    at = {symbol: 20}
    assert number_at(fake.shape[0] * 3, at) == 60
    assert number_at(fake.shape[0] == 20, at) is True
    assert number_at(7, at) == 7
    storages: dict[int, torch.Tensor] = {}
    one, other = tensor_at(fake, at, storages), tensor_at(fake.t()[:, 2:], at, storages)
    assert (one.shape, other.shape, other.stride(), other.storage_offset()) == ((20, 3), (3, 18), (1, 3), 6)
    assert one.untyped_storage()._cdata == other.untyped_storage()._cdata
    assert one.untyped_storage().nbytes() == 240


def test_what_grows_with_a_size(fake: torch.Tensor):
    (symbol,) = symbols_in(fake)
    bounds = {symbol: (2, 20)}
    assert grows_to(3 * symbol, bounds)
    assert not grows_to(30 - symbol, bounds)
    padded = (fake.shape[0] + (-fake.shape[0]) % 8).node.expr
    assert not grows_to(padded, {symbol: (2, 5000)})  # too many to try
    assert grows_to(padded, {symbol: (2, 21)})


def test_errors_about_ranges():
    assert constraint_violated(ConstraintViolationError("x"))
    assert constraint_violated(UserError(UserErrorType.CONSTRAINT_VIOLATION, "x"))
    assert not constraint_violated(ValueError("x"))
