"""States of models that are verified."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state_of(model: nn.Module) -> dict[str, Any]:
    named = {name: t.clone() for name, t in model.state_dict().items()}
    named |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return named | {"training": model.training, "random": torch.get_rng_state()}


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def same(name: str) -> bool:
        one, other = before[name], after[name]
        return one is other if name.startswith("gradient") else torch.equal(torch.as_tensor(one), torch.as_tensor(other))

    return before.keys() == after.keys() and all(map(same, before))
