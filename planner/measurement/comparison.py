"""Comparing what a step leaves with what is expected: bit for bit, or within the rounding of a dtype where bits may differ.

Of a tensor that is divided over ranks, each rank compares its own part.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from remat_planner.planner.measurement.tensor_parts import kind_of, parts_of

_ULPS_OF_THE_LARGEST = 16
"""Units in the last place of the largest tensor of a kind that every tensor of the kind may be off. A gradient that is zero but
for rounding (of a bias that a normalisation removes) is noise as large as the rounding of the others."""


def same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two tensors are equal bit for bit, wherever they are: -0.0 differs from 0.0, and all NaNs are equal.

    The sign of a NaN and the bits behind it say where in memory an operand lay (a vectorised loop and its remainder propagate
    another operand's), so eager does not repeat them.
    """
    if one is other:
        return True
    if one is None or other is None or kind_of(one) != kind_of(other):
        return False
    parts, others = parts_of(one), parts_of(other)
    return len(parts) == len(others) and all(map(_same_bytes, parts, others))


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are the same: tensors bit for bit, numbers by what they print as, anything else by equality."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return both and same_bits(one, other)
    if isinstance(one, (float, complex)) and type(one) is type(other):
        return repr(one) == repr(other)
    return one is other or (type(one) is type(other) and bool(one == other))


class ToleranceCheck:
    """Compares tensors with expected ones, by name, within the rounding of their dtype; other values have to be equal.

    In a name such as "step 1: gradient of lm_head.weight", the first word after the colon is the tensor's kind.
    """

    def __init__(self, expected: Mapping[str, Any]) -> None:
        self._expected = expected
        # Of each part, by name: its difference, and the largest difference allowed.
        self._compared: dict[str, list[tuple[float, float]]] = {}
        self._magnitudes: defaultdict[str, float] = defaultdict(float)
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                for part in map(_as_real, parts_of(value)):
                    if part.is_floating_point():
                        kind = _kind(name)
                        self._magnitudes[kind] = max(self._magnitudes[kind], _magnitude(part))

    def add(self, name: str, actual: Any) -> None:
        """Compare ``actual`` with what is expected under that name."""
        expected = self._expected.get(name)
        if not isinstance(expected, torch.Tensor) or not isinstance(actual, torch.Tensor):
            self._compared[name] = [(0.0 if same_value(expected, actual) else math.inf, 0.0)]
            return
        parts, others = list(map(_as_real, parts_of(expected))), list(map(_as_real, parts_of(actual)))
        if kind_of(expected) != kind_of(actual) or [p.shape for p in parts] != [p.shape for p in others]:
            self._compared[name] = [(math.inf, 0.0)]
            return
        self._compared[name] = [self._difference(name, *pair) for pair in zip(parts, others, strict=True)]

    def discard(self, name: str) -> None:
        """Leave what has that name out of the result."""
        del self._compared[name]

    def difference(self, name: str) -> float:
        """The difference of one tensor, as a share of the largest magnitude of the expected one."""
        return max((difference for difference, _ in self._compared[name]), default=0.0)

    def is_close(self, name: str) -> bool:
        """Whether the difference of one tensor does not exceed the square root of its dtype's epsilon."""
        return all(difference <= tolerance for difference, tolerance in self._compared[name])

    @property
    def largest_difference(self) -> float:
        """The largest difference of any tensor, as a share of the largest magnitude of the expected one."""
        return max((difference for parts in self._compared.values() for difference, _ in parts), default=0.0)

    @property
    def furthest(self) -> str:
        """The name of the tensor that differs most, beside what its dtype allows."""
        share = {
            name: max((difference / tolerance if tolerance else difference for difference, tolerance in parts), default=0.0)
            for name, parts in self._compared.items()
        }
        return max(share, key=share.__getitem__)

    @property
    def all_close(self) -> bool:
        """Whether no difference exceeds the square root of its dtype's epsilon (3.5e-4 for float32, 0.09 for bfloat16)."""
        return all(map(self.is_close, self._compared))

    def _difference(self, name: str, expected: torch.Tensor, actual: torch.Tensor) -> tuple[float, float]:
        actual = actual.to(expected.device)
        if not expected.is_floating_point():
            return (0.0 if torch.equal(expected, actual) else math.inf), 0.0
        tolerance = math.sqrt(torch.finfo(expected.dtype).eps)
        scale = _magnitude(expected) + _ULPS_OF_THE_LARGEST * tolerance * self._magnitudes[_kind(name)]
        if not scale:
            return (math.inf if actual.any() else 0.0), tolerance
        return _largest_difference(expected, actual) / scale, tolerance


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    one, other = _as_real(one), _as_real(other.to(one.device))
    if torch.equal(_bytes_of(one), _bytes_of(other)):
        return True
    if not one.is_floating_point() or one.itemsize == 1:  # PyTorch finds no NaN in 8 bits
        return False
    return torch.equal(_bytes_of(_with_one_nan(one)), _bytes_of(_with_one_nan(other)))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def _with_one_nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.masked_fill(tensor.isnan(), math.nan)


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _kind(name: str) -> str:
    return name.partition(": ")[2].partition(" ")[0]


def _magnitude(tensor: torch.Tensor) -> float:
    finite = tensor.double().nan_to_num(0.0, 0.0, 0.0).abs()
    return float(finite.max()) if finite.numel() else 0.0


def _largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two elements; infinite where a NaN or an infinity is not the same in both."""
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    apart = (one - other).abs().masked_fill(same, 0.0)
    apart = apart.masked_fill(apart.isnan(), math.inf)
    return float(apart.max()) if apart.numel() else 0.0
