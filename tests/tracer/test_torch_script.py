"""Each private name of PyTorch around TorchScript, apart: the test that fails says what a release has moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from remat_planner.tracer import torch_script as private


def _net() -> Any:
    return torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


@torch.jit.script
def _halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


@torch.jit.script
def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_scripts_are_called_by_another():
    seen: list[str] = []

    def call(script: Any, *args: Any) -> Any:
        seen.append(script.name)
        return private.call_script(script, *args)

    net, x = _net(), torch.ones(3, 2)
    with private.scripts_called_by(call):
        inside = _halved(net(x))
    assert seen == ["forward", "_halved"]
    assert torch.equal(inside, _halved(net(x)))
    assert len(seen) == 2


def test_scripted_and_traced_modules_are_known():
    assert private.scripted(_net()) is not None
    assert private.scripted(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))) is not None
    assert private.scripted(nn.Linear(2, 2)) is None
    assert private.owner_of(_net().forward) is not None
    assert private.owner_of(_halved) is None


def test_slots_of_a_scripted_module_can_be_filled():
    net = _net()
    slots = list(private.script_slots(private.scripted(net)))
    assert [tensor.data_ptr() for tensor, _ in slots] == [t.data_ptr() for t in (*net.parameters(), *net.buffers())]
    assert list(private.script_slots(private.scripted(net), deep=False)) == []
    weight, put = slots[0]
    put(torch.zeros(2, 2))
    assert net.state_dict()["0.weight"].count_nonzero() == 0
    put(weight)
    assert next(net.parameters()) is weight


def test_names_and_digests_are_the_same_in_every_process():
    one, other = _net(), _net()
    assert private.qualified_name(one.forward) == private.qualified_name(other.forward)
    assert private.qualified_name(one.forward) == "torch.nn.modules.container.Sequential.forward"
    assert private.digest_of(one.forward) == private.digest_of(other.forward)
    assert private.digest_of(_halved) != private.digest_of(_doubled)


def test_slots_are_readable():
    norm = private.readable(dict(_net().named_modules())["1"]._buffers)
    assert norm.get("running_mean").shape == (2,)  # type: ignore[union-attr]
    assert norm.get("nothing") is None
    plain = nn.Linear(2, 2)._parameters
    assert private.readable(plain) is plain


def test_every_name_is_tried():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in private.__all__ if f"private.{name}" not in source] == []
