"""Rates of links: from the table, from a profile, measured on a disk."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from remat_planner.schedules import Channel
from remat_planner.tracer.costs import LinkError, host_channels, measured_disk_channels
from remat_planner.tracer.costs.conditions import processor
from remat_planner.tracer.costs.errors import ProfileWarning
from remat_planner.tracer.costs.profile_file import Profile, ProfiledLink, read_profile, write_profile

CPU = torch.device("cpu")
OUT = Channel(20e9, 1e-5, 1.1, source="measured")
IN = Channel(22e9, 1e-5, source="measured")


def profile(path: Path, link: ProfiledLink | None) -> Path:
    write_profile(Profile(device="NVIDIA X", torch="2.13", threads=0, settings={}, calls={}, link=link), path)
    return path


def test_the_table_has_rates_for_both_directions() -> None:
    assert host_channels(CPU, "gh200") == (Channel(170e9, source="table"), Channel(411e9, source="table"))


def test_a_profile_gives_back_the_measured_link(tmp_path: Path) -> None:
    path = profile(tmp_path / "x.json", ProfiledLink(host=processor(), outgoing=OUT, incoming=IN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert host_channels(CPU, path) == (OUT, IN)


def test_a_link_that_was_measured_on_another_host_is_told_of(tmp_path: Path) -> None:
    path = profile(tmp_path / "x.json", ProfiledLink(host="Abacus 1", outgoing=OUT, incoming=IN))
    with pytest.warns(ProfileWarning, match="link to the host was measured on Abacus 1, and this machine is"):
        assert host_channels(CPU, path) == (OUT, IN)


def test_a_profile_without_a_link_is_as_before_and_gives_no_rates(tmp_path: Path) -> None:
    path = profile(tmp_path / "x.json", None)
    assert "link" not in json.loads(path.read_text())
    assert read_profile(path).link is None
    with pytest.raises(LinkError, match=r"NVIDIA X has no rates .*--link 50GB/s"):
        host_channels(CPU, path)


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    for channel in measured_disk_channels(tmp_path):
        assert channel.source == "measured"
        assert 1e5 < channel.bytes_per_second < 1e12
    assert not list(tmp_path.iterdir())
