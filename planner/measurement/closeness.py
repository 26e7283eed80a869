"""How far a tensor is from what it should be, where bits may differ: compared with the rounding of its dtype."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch

from remat_planner.planner.distributed import own_part

# A gradient that is zero but for rounding (of a bias that a normalisation takes out again) is noise as large as the rounding
# of the others: so many units in the last place of the largest tensor of its kind are always allowed.
_ULPS_OF_THE_LARGEST = 16


class Closeness:
    """Compares tensors with expected ones, by name; names are alike in kind up to the second word after "step 1: ".

    Of tensors that are divided over ranks each rank compares its own part.
    """

    def __init__(self, expected: Mapping[str, torch.Tensor | None]) -> None:
        self.expected = {name: None if tensor is None else own_part(tensor) for name, tensor in expected.items()}
        self._looked_at: dict[str, tuple[float, float]] = {}  # the difference, and how large it may be
        self._magnitudes: defaultdict[str, float] = defaultdict(float)
        for name, tensor in self.expected.items():
            if tensor is not None and tensor.is_floating_point() and tensor.numel():
                kind = _kind(name)
                self._magnitudes[kind] = max(self._magnitudes[kind], _magnitude(tensor))

    def look_at(self, name: str, found: torch.Tensor | None) -> None:
        """Compare ``found`` with what is expected under ``name``."""
        expected, found = self.expected[name], None if found is None else own_part(found)
        if expected is None or found is None or expected.dtype != found.dtype or expected.shape != found.shape:
            difference, tolerance = (0.0 if expected is found else math.inf), 0.0
        elif not expected.is_floating_point():
            difference, tolerance = (0.0 if torch.equal(expected, found) else math.inf), 0.0
        else:
            tolerance = math.sqrt(torch.finfo(expected.dtype).eps)
            scale = _magnitude(expected) + _ULPS_OF_THE_LARGEST * tolerance * self._magnitudes[_kind(name)]
            difference = _furthest(expected, found) / scale if scale else math.inf if found.any() else 0.0
        self._looked_at[name] = (difference, tolerance)

    def forget(self, name: str) -> None:
        """Leave out what was found under ``name``."""
        del self._looked_at[name]

    @property
    def largest(self) -> float:
        """The largest difference, as a share of the largest magnitude of the expected tensor."""
        return max((difference for difference, _ in self._looked_at.values()), default=0.0)

    @property
    def close(self) -> bool:
        """Whether each was at most the square root of its dtype's epsilon (3.5e-4 for float32, 0.09 for bfloat16)."""
        return all(difference <= tolerance for difference, tolerance in self._looked_at.values())


def _kind(name: str) -> str:
    return name.partition(": ")[2].partition(" ")[0]


def _magnitude(tensor: torch.Tensor) -> float:
    finite = tensor.detach().double().nan_to_num(0.0, 0.0, 0.0).abs()
    return float(finite.max()) if finite.numel() else 0.0


def _furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two elements; what is not finite has to be the same."""
    one, other = one.detach().double(), other.detach().double()
    same = (one == other) | (one.isnan() & other.isnan())
    apart = (one - other).abs().masked_fill(same, 0.0)
    apart = apart.masked_fill(apart.isnan(), math.inf)
    return float(apart.max()) if apart.numel() else 0.0
