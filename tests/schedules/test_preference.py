"""The rule that all searches share, on figures in every order."""

from __future__ import annotations

import numpy as np

from remat_planner.schedules import Simulation, preference


def _run(seconds: float, peak_bytes: int) -> Simulation:
    return Simulation(seconds, peak_bytes, np.array([peak_bytes]))


def test_what_fits_comes_first_by_time_and_the_rest_by_peak() -> None:
    runs = [_run(1, 12), _run(9, 11), _run(5, 10), _run(3, 9), _run(3, 8), _run(8, 1)]
    ranked = sorted(runs, key=lambda run: preference(run, 10))
    assert [(run.seconds, run.peak_bytes) for run in ranked] == [(3, 8), (3, 9), (5, 10), (8, 1), (9, 11), (1, 12)]
    assert min(runs, key=lambda run: preference(run, 0)).peak_bytes == 1
