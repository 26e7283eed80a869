"""The page: its numbers are the schedule's, no name in it is markup, and a browser shows it without a complaint."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from remat_planner.planner.reports import ReportName, report_file, summarize, summarize_regions
from remat_planner.planner.reports.page.chart import MARGINS, SPANS, WIDE
from remat_planner.planner.reports.page.content import page_of
from remat_planner.planner.reports.page.html import page_html
from remat_planner.schedules import Graph, Origin, RegionSchedule, Schedule
from tests.planner.layered_step import layered_graph, layered_schedule
from tests.planner.reports import chromium

_REGIONS = Path(__file__).resolve().parents[2] / "data" / "region_schedule_format_1.json"
_HOSTILE = "</script><img src=x onerror=hacked()>$\\frac{1}$&lt;{{7*7}}\"'"


def _hostile(schedule: Schedule) -> Schedule:
    """``schedule`` with names that are markup, in every place that has a name."""
    graph = schedule.graph
    ops = [
        replace(op, name=op.name + _HOSTILE, module=f"{op.module}.{_HOSTILE}", kind=_HOSTILE, source=f"{_HOSTILE}:7")
        for op in graph.ops
    ]
    values = tuple(replace(value, dtype=_HOSTILE) for value in graph.values)
    constants = {_HOSTILE + name: size for name, size in graph.constants.items()}
    origin = Origin(model=_HOSTILE, costs=_HOSTILE, inputs={_HOSTILE: _HOSTILE})
    graph = replace(graph, ops=tuple(ops), values=values, constants=constants)
    return replace(schedule, graph=graph, origin=origin, solver=_HOSTILE, assumption=_HOSTILE)


class _Parsed(HTMLParser):
    """Tags with their attributes, the content of scripts, and the cells of each table by its heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._inside: list[str] = []
        self._heading = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append((tag, dict(attributes)))
        self._inside.append(tag)
        if tag == "h2":
            self._heading = ""
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag == "td":
            self.tables[self._heading][-1].append(dict(attributes)["data-order"] or "")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["h2"]:
            self._heading += data
        elif self._inside[-1:] == ["script"]:
            self.scripts[-1] += data


def _page(schedule: Schedule | RegionSchedule) -> str:
    regional = isinstance(schedule, RegionSchedule)
    summary = summarize_regions(schedule, path="a.json") if regional else summarize(schedule, path="a.json")
    return page_html(page_of(summary, "a budget"))


@pytest.mark.slow
def test_the_page_says_what_the_schedule_does() -> None:
    schedule = layered_schedule(12, recomputed=7)
    parsed = _Parsed(_page(schedule))
    rows = parsed.tables["At the peak, by module"][1:]
    assert sum(int(row[1]) for row in rows) + schedule.graph.constant_bytes == schedule.peak_bytes
    assert sum(int(row[2]) for row in rows) + schedule.graph.constant_bytes == schedule.baseline_peak_bytes
    kinds = next(rows for title, rows in parsed.tables.items() if title.startswith("At the peak, by kind"))
    assert sum(int(row[1]) for row in kinds[1:]) == schedule.peak_bytes
    assert {row[2] for row in parsed.tables["Activations"][1:]} == {"kept", "recomputed"}
    data = json.loads(parsed.scripts[0])
    assert max(data["plan"]["bytes"]) == schedule.peak_bytes
    assert max(data["unplanned"]["bytes"]) == schedule.baseline_peak_bytes
    assert len(data["plan"]["bytes"]) == len(data["plan"]["ops"]) == SPANS
    assert data["plan"]["seconds"] == pytest.approx(schedule.seconds)


@pytest.mark.slow
def test_the_page_of_regions() -> None:
    schedule = RegionSchedule.load(_REGIONS)
    parsed = _Parsed(_page(schedule))
    assert [row[0] for row in parsed.tables["Regions by their schedules"][1:]] == ["blocks.0", "blocks.1"]
    assert {row[4] for row in parsed.tables["Activations"][1:]} >= {"blocks.0.a", "blocks.1.a"}
    assert len(parsed.scripts) == 3  # data of two drawings, and the script


def _text_attributes(parsed: _Parsed) -> Iterator[tuple[str, str]]:
    for _, attributes in parsed.tags:
        yield from ((name, value or "") for name, value in attributes.items())


@pytest.mark.parametrize("by_regions", [False, True])
def test_no_name_is_markup_and_nothing_is_loaded(by_regions: bool) -> None:
    plain, hostile = layered_schedule(12, recomputed=7), _hostile(layered_schedule(12, recomputed=7))
    if by_regions:
        regions = RegionSchedule.load(_REGIONS)
        region = next(iter(regions.regions.values()))
        named = {_HOSTILE: _hostile(region)}
        pages = [
            _page(replace(regions, regions={"a": region}, calls={"a": 1})),
            _page(replace(regions, regions=named, calls={_HOSTILE: 1}, constants={_HOSTILE: 1})),
        ]
    else:
        pages = [_page(plain), _page(hostile)]
    usual, parsed = map(_Parsed, pages)
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in usual.tags}
    assert Counter(tag for tag, _ in parsed.tags)["script"] == Counter(tag for tag, _ in usual.tags)["script"]
    for name, value in _text_attributes(parsed):
        assert not name.startswith("on")
        assert name not in ("src", "href") or value.startswith("#")
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "{{7*7}}" in pages[1]
    assert any(_HOSTILE in value for _, value in _text_attributes(parsed))
    assert json.loads(parsed.scripts[0])["ops"][0][0] == _HOSTILE


@pytest.mark.slow
def test_a_report_without_a_schedule_file_has_no_instructions(tmp_path: Path) -> None:
    report_file.report(RegionSchedule.load(_REGIONS), tmp_path / "a.html")
    assert "apply_schedule" not in (tmp_path / "a.html").read_text()
    assert "apply_schedule" in _page(RegionSchedule.load(_REGIONS))


@pytest.mark.parametrize("to", ["html", "perfetto", "memory-viz", "csv"])
@pytest.mark.parametrize(
    "graph",
    [
        Graph((), (), ()),
        Graph.from_dag([1, 1], [5, 6], [(0, 1)]),  # no backward
        Graph.from_dag([0, 0, 0], [5, 6, 7], [(0, 1), (0, 2)], backward=2),  # no op takes time
        replace(layered_graph(2), update=10**5),  # the optimizer's step sets the peak
        replace(layered_graph(2), ops=tuple(replace(op, module="a\ud800\0\n") for op in layered_graph(2).ops)),
    ],
    ids=["nothing", "no backward", "no time", "optimizer", "halves of characters"],
)
def test_steps_out_of_the_ordinary(graph: Graph, to: ReportName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_file, "compare", lambda schedule: [])  # what solving finds is not the point here
    monkeypatch.setattr(report_file, "neighbours", lambda schedule: [])
    steps = tuple(range(len(graph.ops)))
    schedule = Schedule(graph, steps, budget=10**6, solver="", status="feasible", bound_seconds=0.0)
    report_file.report(schedule, tmp_path / "report", to=to)
    assert (tmp_path / "report").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    schedule = _hostile(layered_schedule(12, recomputed=7))
    page = tmp_path / "page.html"
    page.write_text(_page(schedule))
    (tmp_path / "profile").mkdir()
    with chromium.tab(tmp_path / "profile") as tab:
        tab.open(page, width=1100, height=900)
        # The tooltip under the pointer, at the moment of the peak, is of the op that runs there.
        peak_second = sum(schedule.graph.ops[i].seconds for i in schedule.steps[: schedule.simulation.peak_step])
        seconds = peak_second + schedule.graph.ops[schedule.steps[schedule.simulation.peak_step]].seconds / 2
        tab.value("document.querySelector('.wide svg').scrollIntoView({block: 'center'})")
        box = tab.value(
            "(() => { const b = document.querySelector('.wide svg').getBoundingClientRect(); return b.toJSON(); })()"
        )
        inside = WIDE.width - MARGINS["left"] - MARGINS["right"]
        share = (MARGINS["left"] + inside * seconds / schedule.seconds) / WIDE.width
        tab.point_at(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        tooltip = tab.value("document.querySelector('.tooltip').textContent")
        assert tab.value("document.querySelector('.tooltip').checkVisibility()")
        assert f"This plan: {schedule.peak_bytes / 1000:.2f} kB\n{_HOSTILE} (backward" in tooltip
        assert f"{_HOSTILE}:7" in tooltip
        tab.point_at(5, 5)
        assert not tab.value("document.querySelector('.tooltip').checkVisibility()")
        # Tables sort and filter.
        column = "[...document.querySelectorAll('section')].find(s => s.querySelector('select')).querySelectorAll('tbody tr')"
        orders = f"[...{column}].map(row => Number(row.cells[1].dataset.order))"
        tab.value("[...document.querySelectorAll('section')].find(s => s.querySelector('select')).id = 'activations'")
        tab.click("#activations th:nth-child(2) button")
        counts = tab.value(orders)
        assert counts == sorted(counts, reverse=True) != sorted(counts)
        tab.click("#activations th:nth-child(2) button")
        assert tab.value(orders) == sorted(counts)
        tab.value(
            "(e => { e.value = 'kept'; e.dispatchEvent(new Event('input')); })(document.querySelector('#activations select'))"
        )
        assert tab.value("[...document.querySelectorAll('#activations tbody tr')].filter(r => !r.hidden).length") == 2
        # On a phone nothing is wider than the screen.
        tab.open(page, width=390, height=844, touch=True)
        assert tab.value("document.documentElement.scrollWidth") == 390
        assert tab.value("document.querySelector('.narrow svg').checkVisibility()")
        assert tab.complaints == []
