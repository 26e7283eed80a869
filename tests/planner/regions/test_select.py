"""Which modules ``regions=`` means."""

from __future__ import annotations

import pytest
from torch import nn

from remat_planner.planner import RegionError
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.regions.select import select_regions
from tests.planner.regions.helpers import Block, decoder


def test_a_name_that_matches_nothing_lists_what_is_near():
    model, _ = decoder()
    with pytest.raises(RegionError, match=r"no module of Decoder .*'layer\.\*'.*near it: layers\.\*") as caught:
        select_regions(model, "layer.*")
    assert "layers.*" in caught.value.names
    with pytest.raises(RegionError, match="near it: Block"):
        select_regions(model, "Blok")
    with pytest.raises(RegionError, match="LSTM"):
        select_regions(model, nn.LSTM)
    with pytest.raises(RegionError, match="no repeated blocks"):
        select_regions(nn.Linear(2, 2), "auto")


def test_a_pattern_matches_part_by_part():
    model, _ = decoder()
    assert list(select_regions(model, "layers.[12]")) == ["layers.1", "layers.2"]
    assert list(select_regions(model, "*.*.up")) == [f"layers.{k}.up" for k in range(3)]
    assert list(select_regions(model, Block)) == [f"layers.{k}" for k in range(3)]
    assert merged_names([*select_regions(model, Block), "head", "x.7"]) == "layers.0-2, head, x.7"


def test_regions_inside_one_another_are_named():
    model, _ = decoder()
    model.layers[1].extra = Block()
    with pytest.raises(RegionError, match=r"'layers\.1\.extra' lies inside of region 'layers\.1'") as caught:
        select_regions(model, Block)
    assert caught.value.names == ("layers.1", "layers.1.extra")
