"""A short soak: what ``benchmarks/soak.py`` does for thousands of steps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.soak import MODES, Look, Soak


@pytest.mark.slow(on_request=True)
def test_nothing_grows_or_lingers() -> None:
    # In a process of its own: what other tests left behind grows beside it.
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--steps", "100", "--modes", MODES[0]],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing grew" in ran.stdout
    assert "new forms 2, planned while training" in ran.stdout


def test_it_complains_of_what_grows_and_of_what_differs() -> None:
    look = Look(step=0, tensors=100, tensor_bytes=4_000, files=10, objects=1_000_000, resident=500_000_000)
    for worse, said in (
        ({}, []),
        ({"tensors": look.tensors + 1}, ["tensors grew from 100 (4,000 bytes) to 101 (4,000 bytes)"]),
        ({"files": look.files + 1}, ["open files grew from 10 to 11"]),
        ({"objects": look.objects + 10_000}, ["Python objects grew from 1,000,000 to 1,010,000"]),
        ({"resident": 2 * look.resident}, ["the process grew from 500,000,000 to 1,000,000,000 bytes"]),
    ):
        found = Soak([look] * 10 + [replace(look, **worse)], {"forward": 1, "backward": 1}, plans=2, new_forms=2)
        assert found.complaints() == said
    found.looks[-1] = look
    found.plans, found.failures["backward"], found.differing = 3, 0, [7]
    assert found.complaints() == [
        "bits differ from eager's at 1 steps, first 7",
        "3 plans were made while training for 2 new forms",
        "not every kind of failure came about: {'forward': 1, 'backward': 0}",
    ]
