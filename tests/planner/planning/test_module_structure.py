"""Modules, parameters and buffers that come or go, and tensors of other forms, are noticed before a planned call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.planner.planning.module_structure import ModuleStructure
from remat_planner.planner.planning.state_slots import StateSlots


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False))
        self.named = nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU()})
        self.weights = nn.ParameterList([torch.ones(4)])
        self.register_buffer("absent", None)


def reordered(net: Net) -> None:
    a = net.named.pop("a")
    net.named["a"] = a


def retyped(net: Net, form: Callable[[torch.Tensor], torch.Tensor]) -> None:
    net.layers[0].weight.data = form(net.layers[0].weight.data)


STRUCTURES: dict[str, Callable[[Net], Any]] = {
    "a module more": lambda net: net.layers.append(nn.ReLU()),
    "a module in one that had none": lambda net: net.layers[1].add_module("inner", nn.ReLU()),
    "a module less": lambda net: net.named.pop("b"),
    "another module": lambda net: net.layers.__setitem__(1, nn.ReLU()),
    "another order": reordered,
    "a mode": lambda net: net.layers[1].eval(),
    "a parameter more": lambda net: net.weights.append(torch.ones(4)),
    "a parameter where there was none": lambda net: setattr(net.layers[2], "bias", nn.Parameter(torch.ones(4))),
    "a buffer more": lambda net: net.layers[1].register_buffer("scale", torch.ones(4)),
    "a buffer where there was none": lambda net: setattr(net, "absent", torch.ones(4)),
    "a parameter less": lambda net: delattr(net.layers[0], "bias"),
}
FORMS: dict[str, Callable[[Net], Any]] = {
    "a dtype": lambda net: retyped(net, torch.Tensor.double),
    "a shape": lambda net: retyped(net, lambda t: t[:3].clone()),
    "strides": lambda net: retyped(net, lambda t: t.t()),
    "a device": lambda net: setattr(net.layers[0], "weight", nn.Parameter(net.layers[0].weight.to("meta"))),
    "no gradient": lambda net: net.layers[0].weight.requires_grad_(False),
    "a class": lambda net: net.layers[0]._parameters.__setitem__("weight", net.layers[0].weight.detach().requires_grad_()),
    "gone": lambda net: delattr(net.layers[0], "bias"),
}


@pytest.mark.parametrize("what", STRUCTURES)
def test_a_structure_differs(what: str) -> None:
    net = Net()
    structure = ModuleStructure(net.modules())
    net.layers[0].weight = nn.Parameter(torch.zeros(4, 4))
    assert structure.is_unchanged()
    STRUCTURES[what](net)
    assert not structure.is_unchanged()


@pytest.mark.parametrize("around", [nullcontext, lambda: torch.autocast("cpu"), torch.no_grad])
@pytest.mark.parametrize("what", FORMS)
def test_a_tensor_has_another_form(what: str, around: Callable[[], AbstractContextManager[Any]]) -> None:
    net = Net()
    tensors = list(net.layers[0].parameters())
    slots = StateSlots([(net.layers[0]._parameters, key) for key in ("weight", "bias")], tensors)
    for _ in range(2):
        assert slots.unchanged() == tensors
        with around():
            assert slots.unchanged() == tensors
    net.layers[0].weight = nn.Parameter(torch.zeros(4, 4))
    assert slots.unchanged() is not None
    FORMS[what](net)
    with around():
        assert slots.unchanged() is None
    assert slots.unchanged() is None
    assert slots.is_changed(0) or slots.is_changed(1)
