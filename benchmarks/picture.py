"""The picture of the README: extra time against budget, one line for each method, one panel for each model.

    python -m benchmarks.picture ROWS.json [--output docs/methods.svg]

``ROWS.json`` is what ``python -m benchmarks.solvers --only methods --json ROWS.json`` wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import typer
from matplotlib.axes import Axes

# From what is set by hand to what this project adds; colours that are told apart by people who see few, and in print.
COLOURS = {
    "every-n": "#999999",
    "chen": "#56b4e9",
    "knapsack": "#cc79a7",
    "greedy": "#e69f00",
    "rotor": "#009e73",
    "twolevel": "#0072b2",
    "anneal": "#d9b310",
    "ilp": "#d55e00",
    "auto": "#000000",
}
_COLUMNS = 3
# Percent. What takes longer than this is off the picture.
_MOST_OVERHEAD = 40.0
# Percent of the peak, from much to little.
_BUDGETS = (92.0, 38.0)


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """Write the picture of the rows of the table "methods"."""
    graphs = list(dict.fromkeys(row["graph"] for row in rows))
    lines = -(-len(graphs) // _COLUMNS)
    figure, axes = plt.subplots(lines, _COLUMNS, figsize=(4 * _COLUMNS, 3 * lines), squeeze=False, layout="constrained")
    for axis, graph in zip(axes.flat, graphs, strict=False):
        _panel(axis, graph, [row for row in rows if row["graph"] == graph])
    for axis in axes.flat[len(graphs) :]:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(output)


def _panel(axis: Axes, graph: str, rows: list[dict[str, Any]]) -> None:
    for method, colour in COLOURS.items():
        mine = [row for row in rows if row["asked"] == method]
        points = sorted((100 * float(row["budget"]), row["overhead"]) for row in mine if row["overhead"] is not None)
        emphasis = {"linewidth": 2.5, "zorder": 3} if method == "auto" else {"linewidth": 1.2}
        axis.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=".", label=method, **emphasis)
    proven = sorted(
        (100 * float(row["budget"]), row["bound"]) for row in rows if row["asked"] == "auto" and row["bound"] is not None
    )
    axis.fill_between([x for x, _ in proven], [y for _, y in proven], color="#dddddd", label="no plan is in here")
    axis.set(title=graph, xlim=_BUDGETS, ylim=(0, _MOST_OVERHEAD), xlabel="budget, % of the peak", ylabel="extra time, %")
    axis.spines[["top", "right"]].set_visible(False)


def main(
    rows: Annotated[Path, typer.Argument(help="what benchmarks.solvers wrote with --json", exists=True)],
    output: Annotated[Path, typer.Option(help="file to write; its ending says the format")] = Path("docs/methods.svg"),
) -> None:
    """Draw extra time against budget."""
    draw([row for row in json.loads(rows.read_text()) if row["table"] == "methods"], output)


if __name__ == "__main__":
    typer.run(main)
