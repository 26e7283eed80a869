"""Figures of matplotlib, which keep no state outside of themselves, and their SVG elements."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_SIZE = 12
_POINTS = 72  # of an inch: a CSS pixel of the drawing is one of them
_IDS = re.compile(r' id="[A-Za-z]\w*_\d+"')  # matplotlib's names of its groups, the same in every drawing


def new_figure(width: int, height: int) -> Figure:
    """An empty figure of that size in CSS pixels."""
    from matplotlib.figure import Figure  # takes a third of a second, which only a drawing is worth

    return Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_POINTS)


def svg_element(figure: Figure, salt: str) -> str:
    """``figure`` as an element for a page; ``salt`` keeps its ids apart from those of other drawings there."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    element = text.getvalue()
    return _IDS.sub("", element[element.index("<svg") :])


def byte_unit(largest: int) -> tuple[float, str]:
    """The decimal unit in which ``largest`` has one to three digits before the point, as bytes and by name."""
    scale, units = 0, ("bytes", "kB", "MB", "GB", "TB", "PB")
    while scale + 1 < len(units) and largest >= 1000 ** (scale + 1):
        scale += 1
    return 1000.0**scale, units[scale]
