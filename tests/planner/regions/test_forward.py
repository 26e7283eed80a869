"""The planned forward of a block: hooks, parameters, autocast, copies, other forms of input."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.regions.forward import planned_regions
from remat_planner.planner.runtime.autograd import first_and_last_node
from remat_planner.planner.torch_private import function_behind
from tests.planner.regions.helpers import decoder, gradients_after, same


@pytest.mark.slow
def test_hooks_of_the_blocks_run_once_a_step():
    model, tokens = decoder()
    seen: list[str] = []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.layers[0].register_forward_hook(lambda module, args, output: seen.append("after"))
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    remat_planner.apply_schedule(model, schedule)
    seen.clear()
    model(tokens).backward()
    assert seen == ["before", "after"]


@pytest.mark.slow
def test_parameters_are_those_that_are_there_when_the_block_is_called():
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    torch.manual_seed(1)
    new = torch.randn_like(model.layers[2].up.weight)

    def gathered(block: nn.Module, args: Any) -> None:
        block.up.weight = nn.Parameter(new)

    for module in (model, eager):
        module.layers[2].register_forward_pre_hook(gathered)
    assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


@pytest.mark.slow
def test_autocast_around_the_step():
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
        remat_planner.apply_schedule(model, schedule)
        assert same(gradients_after(model, tokens), gradients_after(eager, tokens))


@pytest.mark.slow
def test_inputs_of_another_form_are_planned_once_more(caplog: pytest.LogCaptureFixture):
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="50%", regions="layers.*"))
    shorter = tokens[:, :48]
    assert same(gradients_after(model, shorter), gradients_after(eager, shorter))
    assert "planning once" in caplog.text
    assert all(len(forward.planned.programs) == 2 for forward in planned_regions(model).values())


@pytest.mark.slow(on_request=True)
def test_copies_and_pickles_stay_planned():
    model, tokens = decoder()
    eager = gradients_after(model, tokens)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    model.zero_grad()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert list(planned_regions(other)) == [f"layers.{k}" for k in range(3)]
        assert all(forward.block is other.get_submodule(name) for name, forward in planned_regions(other).items())
        assert same(gradients_after(other, tokens), eager)


@pytest.mark.slow
def test_the_ends_of_a_planned_backward_are_found():
    model, tokens = decoder()
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    ends = first_and_last_node([model.layers[0](torch.randn(8, 64, 32, requires_grad=True))])
    assert ends is not None
    assert [function_behind(node).__name__ for node in ends] == ["_Outputs", "_Handover"]
    assert first_and_last_node([torch.ones(1, requires_grad=True) * 2]) is None
