"""A short soak: what ``benchmarks/soak.py`` does for thousands of steps."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.soak import MODES, soak


@pytest.mark.slow
def test_nothing_grows_or_lingers() -> None:
    found = soak(100, modes=MODES[:1])
    assert found.complaints() == []
    assert found.new_forms == 2
    assert found.plans in (1, 2)  # two sizes of one step may share one
    # The complaints are able to complain.
    last = found.looks[-1]
    for grown in ({"tensors": last.tensors + 1}, {"objects": last.objects + 10_000}, {"resident": 2 * last.resident}):
        found.looks[-1] = dataclasses.replace(last, **grown)
        assert len(found.complaints()) == 1
    found.looks[-1] = last
    found.plans = 3
    assert len(found.complaints()) == 1
