"""What ``Offload`` means for a plan, and what is refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from remat_planner.planner.errors import BudgetError, OffloadError
from remat_planner.planner.planning import Offload, offload
from remat_planner.planner.planning.offload import parse_link, pools_for
from remat_planner.schedules import Channel
from remat_planner.tracer.costs import DEVICES, LinkError

NET = nn.Linear(2, 2)


def test_both_pools_on_paper_have_the_rates_of_the_table_and_of_the_folder(tmp_path: Path) -> None:
    host, disk = pools_for(Offload(host="64GB", disk=10**6, folder=tmp_path), NET, "a100-80gb")
    assert (host.name, host.budget) == ("host", 64 * 10**9)
    assert host.outgoing == host.incoming == Channel(24e9, source="table")
    assert (disk.name, disk.budget) == ("disk", 10**6)
    assert disk.outgoing.source == disk.incoming.source == "measured"
    assert 1e5 < disk.outgoing.bytes_per_second < 1e12
    assert not list(tmp_path.iterdir())


def test_rates_can_be_given(tmp_path: Path) -> None:
    asked = Offload(host="1GB", link="out=170GB/s,in=411GB/s", disk="1MB", folder=tmp_path, disk_link="500MB/s")
    host, disk = pools_for(asked, NET, "h100")
    assert (host.outgoing, host.incoming) == (Channel(170e9), Channel(411e9))
    assert disk.outgoing == disk.incoming == Channel(500e6)


@pytest.mark.parametrize("asked", [None, Offload(), Offload(host="0", disk=0)])
def test_nothing_is_copied_where_nothing_is_asked_for(asked: Offload | None) -> None:
    assert pools_for(asked, NET, "measure") == ()


@pytest.mark.parametrize(
    "text", ["0GB/s", "-1GB/s", "50GB", "fast", "5%/s", "in=1GB/s", "in=1GB/s,in=2GB/s", "out=1GB/s,in=0B/s"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(OffloadError, match=r"link.*50GB/s.*out=170GB/s,in=411GB/s"):
        parse_link(text, "link")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Offload(host="1GB"), "plan for a CPU has no other memory.*copy to a disk"),
        (Offload(disk="1GB"), "copies to a disk need a folder"),
        (Offload(disk="1GB", folder="/nowhere/at/all"), "/nowhere/at/all.*No such file or directory.*writable"),
        (Offload(folder="/tmp"), "folder is for copies to the disk, which has no budget"),
        (Offload(link="1GB/s"), "link is for copies to the host, which has no budget"),
        ("disk", "offload is of type str: give an object"),
    ],
)
def test_what_means_nothing(asked: Any, message: str) -> None:
    with pytest.raises(OffloadError, match=message):
        pools_for(asked, NET, "measure")


@pytest.mark.parametrize("budget", ["50%", "min", "-1GB", "much", True])
def test_what_is_no_budget(budget: Any) -> None:
    with pytest.raises(BudgetError):
        pools_for(Offload(host=budget), NET, "h100")


def test_a_disk_that_has_no_room_is_told_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(OffloadError, match=r"disk budget is 10,000,000,000,000,000 bytes, and [\d,]+ bytes are free") as caught:
        pools_for(Offload(disk="10PB", folder=tmp_path), NET, "measure")
    assert caught.value.needed == 10**16
    assert caught.value.available is not None
    assert 0 < caught.value.available < 10**16


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OffloadError, match="Permission denied"):
        pools_for(Offload(disk="1MB", folder=tmp_path), NET, "measure")


def test_a_gpu_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(offload, "_is_on_gpu", lambda _: True)
    monkeypatch.setattr(offload, "available_on_host", lambda: 10**9)
    with pytest.raises(OffloadError, match=r"host budget is 64,000,000,000 bytes, and 1,000,000,000 bytes of memory") as caught:
        pools_for(Offload(host="64GB"), NET, "h100")
    assert (caught.value.needed, caught.value.available) == (64 * 10**9, 10**9)
    host, disk = pools_for(Offload(host="1GB", disk="1MB", folder=tmp_path), NET, "h100")
    assert host.incoming == Channel(50e9, source="table")
    assert (disk.name, disk.incoming.source) == ("disk", "measured")


def test_a_solver_that_copies_nothing_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    pools_for(Offload(host="1GB"), NET, "h100", "none")
    assert "the solver none copies nothing" in caplog.text


def test_memory_that_gpu_and_host_share_takes_no_copies() -> None:
    assert DEVICES["mi300a"].link is None
    with pytest.raises(LinkError, match="mi300a and its host share their memory"):
        pools_for(Offload(host="1GB"), NET, "mi300a")


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_links_are_plausible(device: Any) -> None:
    if device.link is not None:
        assert 10e9 <= device.link.outgoing <= device.link.incoming < 450e9
        assert device.link.incoming < device.bandwidth
        assert device.link.source
