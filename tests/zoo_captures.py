"""Models of the zoo, each captured once in a process: ``tests/conftest.py`` runs all tests of a model in one."""

from __future__ import annotations

import functools

import torch

from remat_planner.tracer import Joint, capture
from tests.zoo import ZOO, Case


@functools.cache
def captured(name: str) -> tuple[Case, Joint]:
    """A model of the zoo, and its step. What trains the model puts its parameters back."""
    torch.manual_seed(0)
    case = ZOO[name]()
    return case, capture(case.model, case.args, case.kwargs, loss=case.loss)
