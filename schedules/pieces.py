"""Pieces of memory with the steps between which they are allocated, and the bytes that they add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Every allocation of a sequence of steps, in order; all arrays are int64 of shape (allocations,).

    Attributes:
        storage: index into ``Graph.storages``; -1 for the random state that an op holds between its executions.
        bytes: size.
        birth: the step that allocates it.
        death: the last step that needs it.
    """

    storage: np.ndarray
    bytes: np.ndarray
    birth: np.ndarray
    death: np.ndarray


class Pieces:
    """The columns of ``Lifetimes`` as lists that grow."""

    def __init__(self) -> None:
        self._storage: list[int] = []
        self._bytes: list[int] = []
        self._birth: list[int] = []
        self.death: list[int] = []

    def add(self, storage: int, size: int, birth: int, death: int) -> int:
        """Append a piece and return its index."""
        self._storage.append(storage)
        self._bytes.append(size)
        self._birth.append(birth)
        self.death.append(death)
        return len(self.death) - 1

    def lifetimes(self) -> Lifetimes:
        columns = (self._storage, self._bytes, self._birth, self.death)
        return Lifetimes(*(np.array(column, dtype=np.int64) for column in columns))


def live_bytes(birth: np.ndarray, death: np.ndarray, sizes: np.ndarray, steps: int) -> np.ndarray:
    """int64 array of shape (steps,): bytes allocated while each step runs.

    Piece k has ``sizes[k]`` bytes from step ``birth[k]`` to step ``death[k]``, both included; the three arrays are int64.
    """
    change = np.zeros(steps + 1, dtype=np.int64)
    np.add.at(change, birth, sizes)
    np.subtract.at(change, death + 1, sizes)
    return np.cumsum(change[:-1])
