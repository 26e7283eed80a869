"""Memory over a step as SVG, and the data that the page's script shows under the pointer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remat_planner.planner.reports.drawing import FONT_SIZE, byte_unit, new_figure, svg_element
from remat_planner.planner.reports.operator_names import ActionNames, action_names
from remat_planner.planner.reports.peak_memory import ACTIVATIONS, BACKWARD, GRADIENTS, OUTPUTS, RANDOM_STATE, WORKSPACE, Bytes
from remat_planner.planner.reports.timeline import Executions, MemoryCurve, highest_executions, turn_span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPANS = 480
"""Equal spans of time that a step is drawn in, each at its highest moment: about as many as a screen shows."""

RESIDENT = "resident throughout"
COLOURS = {
    RESIDENT: "#b8b8b8",
    GRADIENTS: "#cc79a7",
    OUTPUTS: "#e69f00",
    ACTIVATIONS: "#0072b2",
    BACKWARD: "#56b4e9",
    WORKSPACE: "#009e73",
    RANDOM_STATE: "#d9b310",
}
"""A colour for each kind of memory, told apart by people who see few, and in print."""
Lines = Mapping[str, tuple[str, str]]
LINES: Lines = {"this plan": ("#000000", ""), "without recomputation": ("#777777", "5 3"), "budget": ("#d55e00", "")}
"""Colour and dashes of each line."""
MARGINS = {"left": 64, "bottom": 44, "right": 12, "top": 10}
"""CSS pixels around the axes."""

_LEAST_SHARE = 0.001  # of the drawing's height; smaller kinds of memory are thinner than any line


@dataclass(frozen=True)
class Size:
    """A drawing's width and height in CSS pixels."""

    width: int
    height: int


WIDE, NARROW = Size(960, 340), Size(400, 300)


@dataclass(frozen=True)
class Chart:
    """One drawing in two sizes, the kinds of memory in it with their colours, and what the script needs.

    Attributes:
        title: what is drawn.
        wide, narrow: SVG elements.
        legend: colour of each kind of memory that is drawn.
        lines: colour and dashes of each line.
        data: see ``chart_data``.
    """

    title: str
    wide: str
    narrow: str
    legend: Mapping[str, str]
    lines: Lines
    data: Mapping[str, Any]


def memory_chart(title: str, curve: MemoryCurve, *, budget: bool) -> Chart:
    """Draw ``curve``: the schedule's bytes by kind, those without recomputation, and the budget if it is that of the step."""
    planned = highest_executions(curve.planned, SPANS)
    stacked = {RESIDENT: np.full(len(planned), curve.planned.graph.constant_bytes)}
    stacked |= {kind: live[planned] for kind, live in curve.planned.kinds.items()}
    least = _LEAST_SHARE * _top(curve)
    stacked = {kind: live for kind, live in stacked.items() if live.max(initial=0) > least}

    lines = {name: look for name, look in LINES.items() if budget or name != "budget"}

    def draw(size: Size, salt: str) -> str:
        return svg_element(_figure(curve, stacked, size, lines), salt)

    return Chart(
        title=title,
        wide=draw(WIDE, f"{title} wide"),
        narrow=draw(NARROW, f"{title} narrow"),
        legend={kind: COLOURS[kind] for kind in stacked},
        lines=lines,
        data=chart_data(curve),
    )


def chart_data(curve: MemoryCurve) -> dict[str, Any]:
    """What is shown under the pointer, as plain data.

    ``seconds`` is the end of the time axis, and ``timed`` is false where no op takes time and the axis counts executions.
    Each of the two curves has its own ``seconds``, and for each of its spans the bytes and what runs at its highest
    moment: an index into ``ops``, which are [operator, phase, module, line]. ``again`` is 1 where it is recomputed.
    """
    rows: dict[ActionNames, int] = {}

    def spans(executions: Executions) -> dict[str, Any]:
        highest = highest_executions(executions, SPANS).tolist()
        actions = [action_names(executions.graph.actions[executions.ops[step]]) for step in highest]
        return {
            "seconds": executions.duration,
            "bytes": [int(executions.bytes[step]) for step in highest],
            "ops": [rows.setdefault(names, len(rows)) for names in actions],
            "again": [int(executions.again[step]) for step in highest],
        }

    plan, unplanned = spans(curve.planned), spans(curve.unplanned)
    return {
        "seconds": _end(curve),
        "margins": MARGINS,
        "timed": bool(curve.planned.seconds.any()),
        "plan": plan,
        "unplanned": unplanned,
        "ops": list(rows),
    }


def _figure(curve: MemoryCurve, stacked: Mapping[str, Bytes], size: Size, lines: Lines) -> Figure:
    figure = new_figure(size.width, size.height)
    axes = figure.add_axes(_box(size))
    axes.tick_params(labelsize=FONT_SIZE)
    scale, unit = byte_unit(_top(curve))
    time_scale, time_unit = _time_unit(curve)
    base: Bytes = np.zeros(len(next(iter(stacked.values()), ())), dtype=np.int64)
    edges = _edges(curve.planned) * time_scale
    for kind, live in stacked.items():
        bottom_line, base = base, base + live
        axes.fill_between(
            edges, _closed(bottom_line) / scale, _closed(base) / scale, step="post", color=COLOURS[kind], linewidth=0
        )
    for name, executions in (("without recomputation", curve.unplanned), ("this plan", curve.planned)):
        colour, dashes = lines[name]
        live = executions.bytes[highest_executions(executions, SPANS)]
        style: Any = (0, tuple(map(int, dashes.split()))) if dashes else "-"
        x, y = _edges(executions) * time_scale, _closed(live) / scale
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.2, drawstyle="steps-post")
    if "budget" in lines:
        axes.axhline(curve.budget / scale, color=lines["budget"][0], linewidth=1.4)
    turn = turn_span(curve, SPANS)
    if turn < SPANS:
        axes.axvline(float(edges[turn]), color="#444444", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, _end(curve) * time_scale)
    axes.set_ylim(0, _top(curve) / scale)
    axes.set_xlabel(time_unit, fontsize=FONT_SIZE)
    axes.set_ylabel(unit, fontsize=FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _box(size: Size) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the axes as shares of the drawing."""
    width = size.width - MARGINS["left"] - MARGINS["right"]
    height = size.height - MARGINS["bottom"] - MARGINS["top"]
    return MARGINS["left"] / size.width, MARGINS["bottom"] / size.height, width / size.width, height / size.height


def _edges(executions: Executions) -> Any:
    return np.linspace(0, executions.duration, SPANS + 1)


def _closed(live: Bytes) -> Bytes:
    """The bytes of each span and, once more, of the last: a step curve needs the end of it too."""
    return np.append(live, live[-1:]) if len(live) else np.zeros(SPANS + 1, dtype=np.int64)


def _end(curve: MemoryCurve) -> float:
    return max(curve.planned.duration, curve.unplanned.duration) or 1.0


def _top(curve: MemoryCurve) -> int:
    """Bytes at the top of the drawing: a little above all that is in it, but for a budget far above."""
    highest = max(int(curve.planned.bytes.max(initial=1)), int(curve.unplanned.bytes.max(initial=1)))
    return int(1.05 * max(highest, curve.budget if curve.budget <= 1.5 * highest else 0))


def _time_unit(curve: MemoryCurve) -> tuple[float, str]:
    if not curve.planned.seconds.any():
        return 1.0, "executions of ops"
    end = _end(curve)
    return (1.0, "seconds") if end >= 1 else (1e3, "milliseconds") if end >= 1e-3 else (1e6, "microseconds")
