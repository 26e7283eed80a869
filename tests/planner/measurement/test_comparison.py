"""Tensors are compared bit for bit, or within the rounding of their dtype."""

from __future__ import annotations

import math

import pytest
import torch

from remat_planner.planner.measurement.comparison import ToleranceCheck, same_bits, same_value


@pytest.mark.parametrize(
    ("expected", "actual", "close"),
    [
        (torch.ones(3), torch.ones(3) + 1e-6, True),
        (torch.ones(3), torch.ones(3) + 1e-3, False),
        (torch.full((3,), 1e-8), torch.full((3,), -1e-8), True),  # rounding of the other gradient
        (torch.full((3,), 1e-3), torch.full((3,), 1.01e-3), False),
        (torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 1.0]), True),
        (torch.tensor([torch.nan, 1.0]), torch.tensor([0.0, 1.0]), False),
        (torch.tensor([torch.inf]), torch.tensor([-torch.inf]), False),
        (torch.ones(3, dtype=torch.bfloat16), torch.full((3,), 1.01, dtype=torch.bfloat16), True),
        (torch.ones(3), torch.ones(4), False),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), False),
        (None, torch.ones(1), False),
        (None, None, True),
    ],
)
def test_a_tensor_is_close_within_the_rounding_of_its_dtype(
    expected: torch.Tensor | None, actual: torch.Tensor | None, close: bool
):
    check = ToleranceCheck({"step 1: gradient of a": expected, "step 1: gradient of b": torch.ones(2)})
    check.add("step 1: gradient of a", actual)
    assert check.all_close is close
    assert (check.largest_difference == 0) or not math.isnan(check.largest_difference)


def test_a_discarded_tensor_does_not_count():
    check = ToleranceCheck({"step 1: loss": torch.ones(1)})
    check.add("step 1: loss", torch.zeros(1))
    assert not check.all_close
    assert check.largest_difference > 0.99
    check.discard("step 1: loss")
    assert check.all_close
    assert check.largest_difference == 0.0


def test_bits_tell_zeros_apart_and_a_nan_equals_itself():
    assert same_bits(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not same_bits(torch.ones(2), None)
    assert same_bits(None, None)


def _nans(*bits: int) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32)


def test_nans_are_equal_whatever_their_signs_and_payloads():
    one, other = _nans(0x7FC00000, 0, 0x7FC00000), _nans(-0x400000, 0, 0x7FC00001)
    assert one.isnan().sum() == other.isnan().sum() == 2
    assert same_bits(one, other)
    assert not same_bits(one, _nans(0x7FC00000, -0x80000000, 0x7FC00000))  # -0.0
    assert not same_bits(one, _nans(0x7FC00000, 0, 0))
    assert same_bits(torch.complex(one, one), torch.complex(one, other))
    assert same_bits(one.bfloat16(), other.bfloat16())


def _sparse(value: float, *, layout: torch.layout = torch.sparse_coo) -> torch.Tensor:
    return torch.tensor([[0.0, value], [1.0, 0.0]]).to_sparse(layout=layout)


_LAYOUTS = [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]
_COMPLEX = torch.tensor([1 + 2j, 3 - 1j])


class _Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        *((_sparse(2, layout=layout), _sparse(2, layout=layout), _sparse(3, layout=layout)) for layout in _LAYOUTS),
        (_COMPLEX, _COMPLEX.clone(), _COMPLEX + 1j),
        (_COMPLEX.conj(), _COMPLEX.conj().resolve_conj(), _COMPLEX),
        (_COMPLEX.conj().imag, _COMPLEX.conj().imag.resolve_neg(), _COMPLEX.imag),
        (torch.arange(6.0).view(3, 2)[:, 0], torch.tensor([0.0, 2, 4]), torch.tensor([0.0, 2, 5])),
        (torch.ones(1).expand(3), torch.ones(3), torch.tensor([1.0, 1, 2])),
        (torch.tensor([True]), torch.tensor([True]), torch.tensor([False])),
        (torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, 4)),
        (torch.ones(2).as_subclass(_Subclass), torch.ones(2), torch.zeros(2)),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2), torch.zeros(2)),
        (torch.empty(2, device="meta"), torch.empty(2, device="meta"), torch.empty(3, device="meta")),
    ],
)
def test_tensors_of_every_layout_are_compared(one: torch.Tensor, same: torch.Tensor, other: torch.Tensor):
    assert same_bits(one, same)
    assert not same_bits(one, other)
    check = ToleranceCheck({"step 1: output 0": one})
    check.add("step 1: output 0", same)
    assert (check.all_close, check.largest_difference) == (True, 0.0)
    check.add("step 1: output 0", other)
    assert not check.all_close
    assert check.largest_difference > 0


def test_entries_of_one_place_are_compared_before_they_are_summed():
    places = torch.tensor([[1, 1]])
    one, other = (torch.sparse_coo_tensor(places, torch.tensor(values), (4,)) for values in ([2.0, 3.0], [1.0, 4.0]))
    assert not same_bits(one, other)
    assert same_bits(one, one.clone())


def test_rounding_of_sparse_and_complex_tensors_is_close():
    for expected in (_sparse(2), _COMPLEX):
        check = ToleranceCheck({"step 1: output 0": expected})
        check.add("step 1: output 0", expected * (1 + 1e-6))
        assert check.all_close
        assert 0 < check.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (float("nan"), float("nan"), True),
        (0.0, -0.0, False),
        ((1, "a"), (1, "a"), True),
        (torch.ones(1), 1.0, False),
        (torch.ones(1), torch.ones(1), True),
        (None, None, True),
        (None, torch.ones(1), False),
    ],
)
def test_values_of_python_are_compared(one: object, other: object, same: bool):
    assert same_value(one, other) is same
    check = ToleranceCheck({"step 1: state x": one})
    check.add("step 1: state x", other)
    assert check.all_close is same
