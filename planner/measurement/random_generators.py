"""The states of random generators: torch's default ones, Python's, NumPy's, and torch generators that a model holds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class KeptGenerators:
    """The default generators as they are now, and others that are added."""

    def __init__(self) -> None:
        self._states = _default_states()
        self._own: dict[int, tuple[str, torch.Generator, torch.Tensor]] = {}

    def add(self, name: str, generator: torch.Generator) -> None:
        """Include a generator of the model's, as it is now."""
        self._own.setdefault(id(generator), (name, generator, generator.get_state()))

    def states(self) -> Mapping[str, Any]:
        """All states as they are now, by name."""
        own = {f"random state of {name}": generator.get_state() for name, generator, _ in self._own.values()}
        return {**{f"random state {name}": _comparable(state) for name, state in _default_states().items()}, **own}

    def have_moved(self) -> bool:
        """Whether a default generator has drawn since, or was set."""
        now = _default_states()
        return any(not _same(_comparable(now[name]), _comparable(state)) for name, state in self._states.items())

    def put_back(self) -> None:
        """Set the states to what they were."""
        for name, state in self._states.items():
            _set_default(name, state)
        for _, generator, state in self._own.values():
            generator.set_state(state)


def _default_states() -> dict[str, Any]:
    """By name: "0" is torch's on the CPU, and one number follows for each GPU."""
    states: dict[str, Any] = {"0": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {str(k + 1): state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    return states | {"of Python": random.getstate(), "of NumPy": np.random.get_state(legacy=False)}


def _set_default(name: str, state: Any) -> None:
    if name == "0":
        torch.set_rng_state(state)
    elif name == "of Python":
        random.setstate(state)
    elif name == "of NumPy":
        np.random.set_state(state)
    else:
        torch.cuda.set_rng_state(state, int(name) - 1)


def _comparable(state: Any) -> Any:
    if isinstance(state, dict):  # NumPy's
        return state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"], state["gauss"]
    return state


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)
