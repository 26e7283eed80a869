"""The curve drawn by matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from remat_planner.planner.reports.curve.data import CurveData
from remat_planner.planner.reports.drawing import FONT_SIZE, byte_unit, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _NARROW = (720, 420), (400, 360)
_SHARPNESS = 2  # pixels of a PNG for each CSS pixel
_PLAN, _KNEE, _BOUND, _COPIES = "#0072b2", "#d55e00", "#dddddd", "#cc79a7"
_POLICIES = {"every-n": ("#e69f00", "s"), "chen": ("#009e73", "^"), "none": ("#000000", "D")}
_MOST_OVERHEAD = 2.0  # policies that take more extra time than this many times the plan's most are above the drawing


def draw_curve(curve: CurveData, *, narrow: bool = False) -> Figure:
    """Extra time against budget, with the bound, the knee, the usual policies and the peak without recomputation.

    ``narrow`` is for a phone.
    """
    figure = new_figure(*(_NARROW if narrow else _SIZE))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    scale, unit = byte_unit(curve.points[-1].budget_bytes)
    budgets = [point.budget_bytes / scale for point in curve.points]
    top = highest_overhead(curve)
    bounds = [100 * point.bound_overhead for point in curve.points]
    # A bound holds for every smaller budget too.
    without = "without copies " if curve.with_copies else ""
    axes.fill_between(budgets, bounds, step="pre", color=_BOUND, linewidth=0, label=f"no plan {without}is in here")
    axes.plot(budgets, [100 * point.overhead for point in curve.points], color=_PLAN, marker="o", linewidth=1, label="plan")
    if curve.with_copies:
        where_copied = [point.budget_bytes / scale for point in curve.with_copies]
        copied = [100 * point.overhead for point in curve.with_copies]
        axes.plot(where_copied, copied, color=_COPIES, marker="v", linewidth=1, label="plan with copies")
    if (knee := curve.knee) is not None:
        where = (knee.budget_bytes / scale, 100 * knee.overhead)
        axes.plot(*where, color=_KNEE, marker="o", markersize=13, fillstyle="none", linestyle="none", label="knee")
    for name, (colour, marker) in _POLICIES.items():
        shown = [policy for policy in curve.policies if policy.solver == name and policy.overhead <= top]
        if shown:
            x, y = [policy.peak_bytes / scale for policy in shown], [100 * policy.overhead for policy in shown]
            axes.plot(x, y, color=colour, marker=marker, linestyle="none", label=name)
    ends = ((":", curve.minimum_bytes, "least budget"), ("--", curve.baseline_peak_bytes, "without recomputation"))
    for style, size, label in ends:
        axes.axvline(size / scale, color="#777777", linewidth=0.8, linestyle=style, label=label)
    axes.set_ylim(0, 105 * top)
    axes.set_xlabel(f"budget, {unit}", fontsize=FONT_SIZE)
    axes.set_ylabel("extra time, %", fontsize=FONT_SIZE)
    axes.tick_params(labelsize=FONT_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=FONT_SIZE)
    return figure


def drawing(curve: CurveData, form: Literal["svg", "png"]) -> bytes:
    """The content of an image file of ``draw_curve``."""
    content = io.BytesIO()
    figure = draw_curve(curve)
    figure.savefig(content, format=form, dpi=_SHARPNESS * figure.dpi if form == "png" else "figure")
    return content.getvalue()


def highest_overhead(curve: CurveData) -> float:
    """The extra time at the top of a drawing: policies far above the plan are left out of it."""
    most = max(point.overhead for point in curve.points)
    return max([most, *(policy.overhead for policy in curve.policies if policy.overhead <= _MOST_OVERHEAD * most)]) or 0.01
