"""The bytes of the graphs of one step, which is divided by graph breaks."""

from __future__ import annotations

from remat_planner.planner.partition.part import CompiledPart, bytes_after, composition, step_peak
from remat_planner.tracer.fusion import AtPeak

_NOTHING = AtPeak("mm", 0, 0, 0)


def part(peak: int, saved: int, at_peak: AtPeak = _NOTHING) -> CompiledPart:
    return CompiledPart(
        (0, 0),
        peak,
        saved,
        seconds=2.0,
        fastest_seconds=1.0,
        fastest_bytes=peak,
        bound_seconds=1.0,
        recomputed=(),
        at_peak=at_peak,
    )


def test_what_the_first_saves_waits_while_the_second_runs():
    parts = [part(100, 60), part(50, 10), part(20, 5)]
    assert step_peak(parts) == 60 + 50
    assert bytes_after(parts, 0) == 50
    assert bytes_after(parts, 1) == 20
    assert bytes_after(parts, 2) == 0


def test_the_overhead_is_a_share_of_the_fastest():
    assert part(1, 1).overhead == 1.0


def test_what_a_peak_consists_of_is_named_the_most_first():
    words = composition(part(600, 0, AtPeak("mm_3", 200, 0, 400)))
    assert words.startswith("while mm_3 is computed: 400 B")
    assert words.index("of what is computed then") < words.index("200 B")
    assert "leaves" not in words
    assert composition(part(600, 0, AtPeak("", 0, 600, 0))).startswith("between forward and backward: 600 B")
