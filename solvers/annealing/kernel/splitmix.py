"""Random numbers: splitmix64, which gives the same numbers in every thread, process and version."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.compiling import inner


@inner
def uniform(random: NDArray[np.uint64]) -> float:
    """splitmix64: the same numbers in every thread, process and version."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * (1.0 / (1 << 53))


@inner
def below(random: NDArray[np.uint64], bound: int) -> int:
    return int(uniform(random) * bound)
