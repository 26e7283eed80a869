"""Outputs that hold one tensor twice, and the device on which the chain of segments lies."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from remat_planner import apply_schedule
from remat_planner.planner.codegen.tensor_layout import TensorLayout
from remat_planner.planner.runtime.wiring import Expected, Wiring
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of


def test_one_tensor_in_two_outputs():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            h = torch.tanh(self.a(x))
            return {"last": h, "all": h}

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    ours = apply_schedule(model, schedule_of(capture(model, (x,))))
    for module in (eager, ours):
        output = module(x)
        assert output["last"] is output["all"]
        (output["last"].sum() + output["all"].pow(2).sum()).backward()
    assert torch.equal(model.a.weight.grad, eager.a.weight.grad)


def wiring(*devices: str) -> Wiring:
    forms = tuple((Expected(TensorLayout((), (), torch.float32, torch.device(device), True), None, 0),) for device in devices)
    return Wiring(cast(Any, None), (), forms, (), (), ())


def test_a_link_hangs_on_the_accelerator_where_gradients_arrive_on_one() -> None:
    assert wiring("cpu").device.type == "cpu"
    assert wiring("cpu", "meta").device.type == "meta"  # meta stands for any accelerator
    assert wiring("meta").token.device.type == "meta"
