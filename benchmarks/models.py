"""Every model of the zoo at several budgets: is the promise kept? Measured peak, predicted peak, bits, overhead.

    python -m benchmarks.models [--only gpt2,unet] [--budgets 100,80,60,40] [--json FILE]

For each pair the step is planned, applied and run; where no schedule fits, the least budget that the error names is planned
instead. Exits with 1 where a promise is broken.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from remat_planner import InfeasibleBudgetError, Schedule, verify
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.planning import Settings, Step, schedule_step, trace_step
from tests.zoo import ZOO, Case, loss_of


@dataclass(frozen=True)
class Row:
    """One model at one budget; bytes are whole peaks, constants included."""

    model: str
    budget: str
    least: bool
    eager_peak: int
    budget_bytes: int
    predicted: int
    measured: int
    overhead: float
    bound: float
    identical: bool
    differences: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Within the budget, bits as eager's, and predicted within 2 % of measured."""
        close = abs(self.predicted - self.measured) <= 0.02 * self.measured
        below_eager = self.budget != "100%" or self.measured <= self.eager_peak
        return self.identical and self.measured <= self.budget_bytes and close and below_eager


def eager_peak(case: Case, constants: int) -> int:
    """Measured bytes of an eager step of a fresh model, its constants as planned."""

    def step() -> object:
        output = case.model(*case.args, **case.kwargs)
        loss = loss_of(case, output)
        loss.backward()
        return output, loss

    peak = measure_peak(step, torch.device("cpu"))
    case.model.zero_grad(set_to_none=True)
    return constants + peak


def rows(name: str, budgets: list[str], time_limit: float) -> list[Row]:
    """Plan and verify one model at each budget."""
    torch.manual_seed(0)
    case = ZOO[name]()
    step = trace_step(case.model, case.args, case.kwargs, settings=Settings(loss=case.loss, time_limit=time_limit))
    torch.manual_seed(0)
    eager = eager_peak(ZOO[name](), step.graph.constant_bytes)
    found = []
    for budget in budgets:
        schedule, least = _planned(step, budget)
        result = verify(case.model, schedule, case.args, case.kwargs)
        found.append(
            Row(
                model=name,
                budget=budget,
                least=least,
                eager_peak=eager,
                budget_bytes=schedule.budget,
                predicted=result.predicted_peak_bytes,
                measured=result.measured_peak_bytes,
                overhead=schedule.overhead,
                bound=schedule.bound_overhead,
                identical=result.identical,
                differences=result.differences,
            )
        )
    return found


def _planned(step: Step, budget: str) -> tuple[Schedule, bool]:
    try:
        return schedule_step(step, budget), False
    except InfeasibleBudgetError as error:
        return schedule_step(step, error.minimum), True


def main(
    only: Annotated[str, typer.Option(help="names, separated by commas")] = "",
    budgets: Annotated[str, typer.Option(help="percentages of the no-recompute peak")] = "100,80,60,40",
    time_limit: Annotated[float, typer.Option(help="seconds for each solve")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    console = Console(width=130)
    table = Table(
        "model", "budget", "eager", "budget B", "predicted", "measured", "off %", "time +%", "bound +%", "bits", "kept"
    )
    everything: list[Row] = []
    for name in only.split(",") if only else ZOO:
        for row in rows(name, [f"{b}%" for b in budgets.split(",")], time_limit):
            everything.append(row)
            off = 100 * (row.predicted / row.measured - 1)
            cells = [
                row.model,
                row.budget + (" least" if row.least else ""),
                f"{row.eager_peak:,}",
                f"{row.budget_bytes:,}",
                f"{row.predicted:,}",
                f"{row.measured:,}",
                f"{off:+.2f}",
                f"{100 * row.overhead:.2f}",
                f"{100 * row.bound:.2f}",
                "same" if row.identical else f"DIFFER {row.differences[:2]}",
                "yes" if row.kept else "NO",
            ]
            table.add_row(*cells)
            print(" | ".join(cells), file=sys.stderr, flush=True)
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in everything], indent=1))
    if not all(row.kept for row in everything):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
