"""Which modules ``regions=`` means."""

from __future__ import annotations

import pytest
from torch import nn

from remat_planner import RegionError
from remat_planner.planner.module_paths import merged_names
from remat_planner.planner.regions.select import named_in, select_regions
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
    with pytest.raises(RegionError, match="no modules inside"):
        select_regions(nn.Linear(2, 2), "auto")
    with pytest.raises(RegionError, match=r"not list: give one pattern that matches all of them"):
        select_regions(model, ["layers.0", "layers.1"])  # type: ignore[arg-type]


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


def test_a_pattern_survives_wrappers():
    model, _ = decoder()
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)
    assert list(select_regions(wrapped, "layers.*")) == [f"module.layers.{k}" for k in range(3)]
    assert list(select_regions(wrapped, "*")) == ["module"], "a full match goes first"
    model.layers[0].layers = nn.ModuleList([Block()])
    assert list(select_regions(wrapped, "layers.*")) == [f"module.layers.{k}" for k in range(3)], "only the outermost"


def test_names_of_a_plan_are_found_in_a_wrapped_and_an_unwrapped_model():
    model, _ = decoder()
    wrapped = nn.Sequential()
    wrapped.add_module("module", model)
    plain, inside = ["layers.0", "layers.2"], ["module.layers.0", "module.layers.2"]
    assert named_in(model, plain) == dict(zip(plain, plain, strict=True))
    assert named_in(wrapped, plain) == dict(zip(plain, inside, strict=True))
    assert named_in(model, inside) == dict(zip(inside, plain, strict=True))
    assert named_in(model, ["layers.0", "layers.7"])["layers.7"] == "layers.7"


def test_auto_looks_into_lists_of_lists_and_takes_parts_where_nothing_is_repeated():
    lists = nn.ModuleList([nn.ModuleList([Block(), Block()]), nn.ModuleList([Block()])])
    assert list(select_regions(lists, "auto")) == ["0.0", "0.1", "1.0"]
    parts = nn.Sequential(Block(16), nn.Linear(16, 16), nn.Linear(16, 16), Block(32))
    assert list(select_regions(parts, "auto")) == ["0", "3"]


def test_frozen_blocks_count():
    model, _ = decoder()
    model.layers.requires_grad_(False)
    assert len(select_regions(model, "auto")) == 3


def test_layers_that_are_dictionaries_are_their_modules():
    layers = nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(4), "mix": Block(), "act": nn.ReLU()}) for _ in range(2))
    model = nn.ModuleDict({"layers": layers, "head": nn.Linear(4, 4)})
    assert list(select_regions(model, "auto")) == ["layers.0.mix", "layers.1.mix"]
