"""The progress of a plan on stderr: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from remat_planner.planner.cli.output import SafeConsole
from remat_planner.planner.formatting import format_percent, format_seconds
from remat_planner.schedules import Graph
from remat_planner.solvers import Reporter


class _SecondsColumn(ProgressColumn):
    """The seconds since a stage began; while a solver has a time limit, those that are left of it."""

    def render(self, task: Task) -> Text:
        if (ends := task.fields.get("ends")) is not None:
            return Text(f"{max(0.0, ends - time.monotonic()):.0f} s left", style="progress.elapsed")
        return Text(f"{task.elapsed or 0:.0f} s", style="progress.elapsed")


class Stages(Reporter):
    """The stages of a run, and the solver's progress within the last of them."""

    def __init__(self, *, quiet: bool, time_limit: float | None = None) -> None:
        self._limit = time_limit
        self._console = SafeConsole(stderr=True, quiet=quiet)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _SecondsColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._began = time.monotonic()
        self._stage = ""
        self._baseline = 0.0
        self._cost: float | None = None
        self._bound: float | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._close_stage()
        self._bar.stop()

    def stage(self, name: str) -> None:
        """A new stage begins."""
        self._close_stage()
        self._stage, self._began = name, time.monotonic()
        self._bar.reset(self._task, description=name, total=None, ends=None)

    def done(self, done: int, total: int) -> None:
        """``done`` of ``total`` parts of the stage are finished."""
        self._bar.update(self._task, completed=done, total=total)

    def started(self, solver: str, graph: Graph, budget: int) -> None:  # noqa: ARG002
        self._baseline = graph.seconds
        ends = None if self._limit is None else time.monotonic() + self._limit
        self._bar.update(self._task, description=f"{self._stage} ({solver})", ends=ends)

    def improved(self, cost: float, peak: int) -> None:  # noqa: ARG002
        self._cost = cost if self._cost is None else min(cost, self._cost)
        self._show_gap()

    def bound(self, value: float) -> None:
        self._bound = value if self._bound is None else max(value, self._bound)
        self._show_gap()

    def _show_gap(self) -> None:
        if self._baseline:
            best = "?" if self._cost is None else f"+{format_percent(self._cost / self._baseline - 1)}"
            least = "" if self._bound is None else f", at least +{format_percent(max(0.0, self._bound / self._baseline - 1))}"
            self._bar.update(self._task, description=f"{self._stage}: {best}{least}")

    def _close_stage(self) -> None:
        if self._stage:
            self._console.print(Text(f"{self._stage}: {format_seconds(time.monotonic() - self._began)}", style="dim"))
