"""The curve: its knee, its document, and its views on a terminal, as an image and in a notebook."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from remat_planner.planner.reports import report
from remat_planner.planner.reports.curve.budget_curve import BudgetCurve
from remat_planner.planner.reports.curve.data import CurvePoint, curve_document, knee_of
from remat_planner.planner.reports.curve.drawing import drawing, highest_overhead
from remat_planner.planner.reports.curve.file import load_curve
from remat_planner.planner.reports.curve.terminal import curve_report
from remat_planner.planner.reports.policy_comparison import PolicyPoint, usual_policies
from remat_planner.schedules import RegionSchedule, simulate
from tests.planner.layered_step import layered_graph

_REGIONS = Path(__file__).resolve().parents[2] / "data" / "region_schedule_format_1.json"
_NAME = "<img src=x>[red]$x^2$"


def _points(*overheads: float) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(1_000_000 * (n + 1), 1_000_000 * (n + 1), overhead, overhead / 2, "feasible", "ilp", "any schedule")
        for n, overhead in enumerate(overheads)
    )


_CURVE = BudgetCurve(
    model=_NAME,
    device="h100",
    costs="h100",
    optimizer=None,
    baseline_seconds=0.5,
    baseline_peak_bytes=5_000_000,
    points=_points(0.3, 0.1, 0.05, 0.02, 0.0),
    policies=(PolicyPoint("none", 5_000_000, 0.0), PolicyPoint("every-n", 2_000_000, 0.4), PolicyPoint("chen", 2_000_000, 2.0)),
)


@pytest.mark.slow
def test_a_second_line_with_copies_is_shown_drawn_and_read_again(tmp_path: Path) -> None:
    with_copies = replace(_CURVE, with_copies=_points(0.07, 0.01, 0.0))
    console = Console(file=io.StringIO(), width=120)
    console.print(curve_report(with_copies))
    assert "with copies beside the device" in console.file.getvalue()  # type: ignore[attr-defined]
    assert b"plan with copies" in drawing(with_copies, "svg")
    path = tmp_path / "curve.json"
    path.write_text(json.dumps(curve_document(with_copies)))
    assert load_curve(path) == with_copies


@pytest.mark.parametrize(
    ("overheads", "knee"),
    [
        ((0.3, 0.1, 0.05, 0.02, 0.0), 1),
        ((0.4, 0.3, 0.2, 0.1, 0.0), None),  # a straight line
        ((0.4, 0.4, 0.4, 0.0), None),  # above it
        ((0.0, 0.0), None),
        ((0.1,), None),
    ],
)
def test_the_knee(overheads: tuple[float, ...], knee: int | None) -> None:
    points = _points(*overheads)
    assert knee_of(points) == (None if knee is None else points[knee])


def test_the_document() -> None:
    document = json.loads(json.dumps(curve_document(_CURVE)))
    assert document["knee_bytes"] == 2_000_000
    assert (document["minimum_bytes"], document["baseline_peak_bytes"]) == (1_000_000, 5_000_000)
    assert document["points"][1]["bound_overhead"] == 0.05
    assert document["policies"][1] == {"solver": "every-n", "peak_bytes": 2_000_000, "overhead": 0.4}


@pytest.mark.slow
def test_the_file_and_the_page(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps(curve_document(_CURVE)))
    assert load_curve(tmp_path / "curve.json") == _CURVE
    report(RegionSchedule.load(_REGIONS), tmp_path / "plain.html")
    report(RegionSchedule.load(_REGIONS), tmp_path / "page.html", curve=_CURVE)
    plain, page = ((tmp_path / name).read_text() for name in ("plain.html", "page.html"))
    assert page.count("<svg") == plain.count("<svg") + 2
    assert "no plan is in here" in page


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 100])
def test_the_terminal(encoding: str, width: int) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    Console(file=file, width=width, markup=False).print(curve_report(_CURVE))
    file.seek(0)
    text = file.read()
    assert _NAME in text.replace("\n", "") or width == 40
    plot = text[text.index("Extra time") : text.index("Budgets")].splitlines()
    dot, ring = "o@" if encoding == "ascii" else "●◉"
    marks = "".join(line.partition("|" if encoding == "ascii" else "│")[2] for line in plot[:-2])
    assert (marks.count(dot), marks.count(ring)) == (4, 1)
    assert "n" in marks  # every-n; chen takes far more and is in the table only
    assert "+40.0 %" in plot[1]
    assert highest_overhead(_CURVE) == 0.4
    assert "+200.0 %" in text
    assert "Bounds and proofs cover any schedule." in text


@pytest.mark.slow
def test_the_image_and_the_notebook() -> None:
    assert drawing(_CURVE, "png").startswith(b"\x89PNG")
    assert b"<svg" in drawing(_CURVE, "svg")
    html = _CURVE._repr_html_()
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
    assert html.count("<tr>") == 6
    assert "<svg" in html
    assert repr(_CURVE) == f"<BudgetCurve of {_NAME}: 5 budgets from 1,000,000 to 5,000,000 bytes, knee at 2,000,000>"
    assert "None" not in repr(replace(_CURVE, points=_points(0.0, 0.0)))
    drawing(replace(_CURVE, points=_points(0.0)), "png")


def test_the_policies_reach_what_they_say() -> None:
    graph = layered_graph(12)
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    policies = usual_policies(graph, [peak, peak * 2 // 3], lambda steps: simulate(graph, steps).peak_bytes)
    assert [policy for policy in policies if policy.solver == "none"] == [PolicyPoint("none", peak, 0.0)]
    assert len({(policy.solver, policy.peak_bytes) for policy in policies}) == len(policies) > 3
