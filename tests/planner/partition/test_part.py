"""The bytes of the graphs of one step, which is divided by graph breaks."""

from __future__ import annotations

from remat_planner.planner.partition.part import CompiledPart, bytes_after, step_peak


def part(peak: int, saved: int) -> CompiledPart:
    return CompiledPart(
        (0, 0), peak, saved, seconds=2.0, fastest_seconds=1.0, fastest_bytes=peak, bound_seconds=1.0, recomputed=()
    )


def test_what_the_first_saves_waits_while_the_second_runs():
    parts = [part(100, 60), part(50, 10), part(20, 5)]
    assert step_peak(parts) == 60 + 50
    assert bytes_after(parts, 0) == 50
    assert bytes_after(parts, 1) == 20
    assert bytes_after(parts, 2) == 0


def test_the_overhead_is_a_share_of_the_fastest():
    assert part(1, 1).overhead == 1.0
