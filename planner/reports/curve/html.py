"""The curve in a notebook: its drawing and its table."""

from __future__ import annotations

import jinja2

from remat_planner.planner.formatting import format_bytes, format_percent
from remat_planner.planner.reports.curve.data import CurveData
from remat_planner.planner.reports.curve.drawing import draw_curve
from remat_planner.planner.reports.drawing import svg_element

_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<div style="max-width: 720px">
<p><b>{{ model }}</b>: extra time against budget</p>
{{ svg | safe }}
<table><thead><tr><th>budget</th><th>extra time</th><th>at least</th><th>proof</th></tr></thead><tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>"""
)


def curve_html(curve: CurveData) -> str:
    """An HTML fragment."""
    rows = [
        (
            format_bytes(point.budget_bytes),
            f"+{format_percent(point.overhead)}",
            f"+{format_percent(point.bound_overhead)}",
            point.status + (", knee" if point == curve.knee else ""),
        )
        for point in curve.points
    ]
    svg = svg_element(draw_curve(curve), f"{curve.model} {rows}")
    return _TEMPLATE.render(model=curve.model or "A step", rows=rows, svg=svg)
