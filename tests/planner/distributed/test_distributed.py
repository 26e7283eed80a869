"""Planned modules in several processes: each test starts torchrun once, which runs ``checks``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
# torchrun in a process that has imported everything: the ranks are forked from it and need not import again.
TORCHRUN = "import tests.planner.distributed.checks, torch.distributed.run as torchrun; torchrun.main()"
CHECKS = Path(__file__).with_name("checks.py")
SECONDS = 240

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def run_checks(processes: int, folder: Path, *names: str) -> None:
    started = started_checks(processes, folder, *names)
    passed = [line.removeprefix("ok ") for line in started.stdout.splitlines() if line.startswith("ok ")]
    assert (started.returncode, passed) == (0, list(names)), started.stdout + started.stderr


def started_checks(processes: int, folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-c", TORCHRUN, "--standalone", "--local-addr", "127.0.0.1", "--start-method", "fork"),
            *("--nproc-per-node", str(processes), "--run-path", str(CHECKS), str(folder), *names),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.slow
def test_two_processes(tmp_path: Path):
    names = ("ddp", "ddp_by_regions", "fsdp", "copies", "sharded_afterwards", "refusals", "overlap")
    run_checks(2, tmp_path, *names, "pinned_collectives", "pipeline")


@pytest.mark.slow(on_request=True)
def test_an_audit_that_fails_on_one_rank_ends_all(tmp_path: Path):
    started = started_checks(2, tmp_path, "audits")
    assert started.returncode != 0
    assert [line for line in started.stdout.splitlines() if "differs" in line] == ["step 3 differs on rank 1"], started.stderr


@pytest.mark.slow(on_request=True)
def test_four_processes(tmp_path: Path):
    run_checks(4, tmp_path, "ddp", "fsdp")
