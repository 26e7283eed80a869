"""``plan --offload``: what the options mean, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.schedules import Schedule
from tests.planner.command_line import Call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--offload tape", "--offload tape names no pool: give host, or disk:FOLDER"),
        ("--offload disk", "--offload disk names no pool: give host, or disk:FOLDER"),
        ("--offload host", "--offload host needs --host-budget"),
        ("--offload disk:. --offload disk:/tmp --disk-budget 1MB", "--offload names the disk twice"),
        ("--host-budget 1GB", "--host-budget is for copies to the host: add --offload host"),
        ("--offload disk:. --disk-budget 1MB --link 1GB/s", "--link is for copies to the host: add --offload host"),
        ("--offload host --host-budget 1GB", "plan for a CPU has no other memory on its host"),
        ("--offload host --host-budget 1GB --device mi300a", "share their memory"),
        ("--offload host --host-budget 1GB --device h100 --link 0GB/s", "'0GB/s', which is no rate above zero"),
        ("--offload disk:nowhere --disk-budget 1MB", "cannot be written to nowhere (No such file or directory)"),
        ("--offload disk:. --disk-budget 10PB", "the disk budget is 10,000,000,000,000,000 bytes, and"),
    ],
)
def test_mistakes_are_told_before_the_step_is_captured(options: str, message: str, call: Call) -> None:
    run = call("--budget", "60%", *options.split(), "net.py")
    assert run.code == ExitCode.USAGE
    assert message in run.err


def test_an_error_of_a_pool_has_its_numbers_in_the_document(call: Call) -> None:
    run = call("--json", "--budget", "60%", "--offload", "disk:.", "--disk-budget", "10PB", "net.py")
    error = json.loads(run.out)["error"]
    assert (error["kind"], error["pool"], error["needed_bytes"]) == ("OffloadError", "disk", 10**16)
    assert 0 < error["available_bytes"] < 10**16


@pytest.mark.slow
def test_the_schedule_file_has_the_pools(call: Call, folder: Path) -> None:
    options = "--offload disk:. --disk-budget 100MB --disk-link out=1GB/s,in=2GB/s --solver none --json"
    run = call("--budget", "100%", *options.split(), "net.py")
    assert run.code == ExitCode.OK
    (pool,) = Schedule.load(folder / "net.schedule.json").graph.pools
    assert (pool.name, pool.budget) == ("disk", 10**8)
    assert (pool.outgoing.bytes_per_second, pool.incoming.bytes_per_second) == (1e9, 2e9)
    assert json.loads(run.out)["offload"]["pools"]["disk"]["bytes"] == 0


def test_devices_have_their_links(call: Call) -> None:
    text = call("devices").out
    assert "NVLink-C2C, 170 GB/s out, 411 in" in text
    assert "none: shared memory" in text
    assert json.loads(call("devices", "--json").out)["t4"]["link"]["name"] == "PCIe 3.0 x16"
