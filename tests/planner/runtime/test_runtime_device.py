"""The chain of links lies on the device of the step, so that autograd runs it on the forward's stream."""

from __future__ import annotations

from typing import Any, cast

import torch

from remat_planner.planner.codegen.tensor_layout import IncomingForm
from remat_planner.planner.runtime.autograd import _Link, _Run
from remat_planner.planner.runtime.wiring import Wiring


class _Context:
    def set_materialize_grads(self, value: bool) -> None:
        assert value is False


def wiring(*devices: str) -> Wiring:
    forms = tuple(((IncomingForm((), (), torch.float32, torch.device(device), True), None),) for device in devices)
    return Wiring(cast(Any, None), (), forms, (), ())


def test_a_link_hangs_on_the_accelerator_where_gradients_arrive_on_one() -> None:
    assert wiring("cpu").device.type == "cpu"
    assert wiring("cpu", "meta").device.type == "meta"  # meta stands for any accelerator
    token = _Link.forward(cast(Any, _Context()), _Run(wiring("meta"), []), 0, None)
    assert token.device.type == "meta"
