"""Casts of autocast that a region shares with code outside it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import remat_planner
from remat_planner import RegionError
from remat_planner.planner.regions.forward import planned_regions
from tests.planner.regions.helpers import Decoder, decoder, gradients_after, same


@pytest.mark.slow(on_request=True)
def test_casts_that_a_region_shares_are_refused_unless_autocast_shares_none():
    model, tokens = decoder()
    model.layers[1].up.weight = model.layers[0].up.weight
    eager = copy.deepcopy(model)
    assert remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RegionError, match=r"'layers\.0': its parameter up\.weight is also in layers\.1\.up,") as caught:
            remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
        assert caught.value.names == ("layers.0",)
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="100%", regions="auto"))
        assert list(planned_regions(model)) == ["layers.2"]
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))
        remat_planner.remove_schedule(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*"))
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


class ReadsItsBlocks(Decoder):
    """Multiplies with a weight of its first block, which its last one does not share."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = super().forward(tokens)
        return logits + F.linear(self.embedding(tokens), self.layers[0].up.weight).mean()


@pytest.mark.slow(on_request=True)
def test_casts_that_the_models_own_forward_shares_are_refused():
    torch.manual_seed(0)
    model, tokens = ReadsItsBlocks(), torch.randint(0, 50, (4, 64))
    eager = copy.deepcopy(model)
    assert remat_planner.verify(
        model, remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*"), (tokens,)
    ).identical
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RegionError, match=r"'layers\.0': its parameter up\.weight is also read by what calls"):
            remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="100%", regions="auto"))
        assert list(planned_regions(model)) == ["layers.1", "layers.2"]
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


@pytest.mark.slow
def test_casts_that_the_loss_shares_are_refused():
    model, tokens = decoder()

    def loss(output: torch.Tensor) -> torch.Tensor:
        return output.mean() + F.linear(model.embedding.weight, model.layers[1].up.weight).mean()

    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RegionError, match=r"'layers\.1': its parameter up\.weight"),
    ):
        remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*", loss=loss)
