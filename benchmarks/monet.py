"""The five networks of MONeT at its budgets, planned on paper for a V100: overhead, bound, and the form of the step.

    python -m benchmarks.monet [--only vgg16,resnet50] [--time-limit 120] [--order any] [--json FILE]

MONeT (Shah et al. 2021, "Memory optimization for deep networks") chooses among implementations of operators together with
checkpoints; budgets and goals are those of its tables, in GiB of the whole step and percent of its time without recomputation.
Where it gives no figure, the goal is a schedule within 1 % of its bound. Overheads are over eager's step, whichever form is
planned. The allocator has expandable segments: no budget has a margin for blocks that it cached before. Models and inputs are
fakes: nothing here takes a GPU or its memory. Exits with 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.monet_models import GoogLeNet, UNet, class_loss, mobilenet_v2, resnet50, vgg16
from remat_planner import InfeasibleBudgetError
from remat_planner.planner.planning import Settings, Step, peak_without_recomputation, schedule_step, trace_step
from remat_planner.solvers import Order

GIB = 2**30
LARGEST_GAP = 1.0
"""Percent of the step that a schedule may be above its bound, where no overhead is the goal."""


@dataclass(frozen=True)
class Network:
    """One of the networks.

    Attributes:
        build: makes it.
        batch: number of pictures.
        size: of a picture, in pixels.
        goals: by budget in GiB, the largest overhead in percent, or None.
        by_pixel: whether it scores each pixel.
    """

    build: Callable[[], nn.Module]
    batch: int
    size: tuple[int, int]
    goals: dict[float, float | None]
    by_pixel: bool = False

    def step(self, time_limit: float, order: Order) -> Step:
        """Its training step."""
        with FakeTensorMode(allow_non_fake_inputs=True):
            model, pictures = self.build().train(), torch.zeros(self.batch, 3, *self.size)
            labels = torch.zeros(self.batch, *(self.size if self.by_pixel else ()), dtype=torch.long)
        settings = Settings(loss=class_loss(labels), costs="v100", time_limit=time_limit, order=order)
        return trace_step(model, (pictures,), settings=settings)


NETWORKS = {
    "vgg16": Network(vgg16, 176, (224, 224), {5.51: None}),
    "resnet50": Network(resnet50, 184, (224, 224), {10.01: 3.2, 8.01: 5.5, 6.0: 9.3, 4.99: 11.9}),
    "unet": Network(UNet, 11, (416, 608), {6.01: None, 5.01: None}, by_pixel=True),
    "mobilenet_v2": Network(mobilenet_v2, 272, (224, 224), {5.01: None}),
    "googlenet": Network(GoogLeNet, 320, (224, 224), {4.99: None}),
}


@dataclass(frozen=True)
class Row:
    """A network at a budget: GiB, and percent of eager's step; where no schedule was found, ``peak`` is the least that was."""

    network: str
    eager_peak: float
    budget: float
    peak: float
    overhead: float | None
    bound: float | None
    form: str
    solver: str
    seconds: float
    goal: float | None

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        if self.overhead is None or self.bound is None:
            return False
        return self.overhead <= self.goal if self.goal is not None else self.overhead - self.bound <= LARGEST_GAP


def rows(name: str, time_limit: float, order: Order) -> Iterator[Row]:
    """A network at each of its budgets."""
    network = NETWORKS[name]
    step = network.step(time_limit, order)
    eager_peak = peak_without_recomputation(step) / GIB
    for budget, goal in network.goals.items():
        began = time.perf_counter()
        try:
            schedule = schedule_step(step, int(budget * GIB))
        except InfeasibleBudgetError as error:
            took = time.perf_counter() - began
            yield Row(name, eager_peak, budget, error.minimum / GIB, None, None, "", "", took, goal)
            continue
        yield Row(
            name,
            eager_peak,
            budget,
            schedule.peak_bytes / GIB,
            100 * (schedule.seconds / step.graph.seconds - 1),
            100 * (schedule.bound_seconds / step.graph.seconds - 1),
            "eager's" if schedule.graph == step.graph else "leaner",
            schedule.solver,
            time.perf_counter() - began,
            goal,
        )


def main(
    only: Annotated[str, typer.Option(help="names, separated by commas")] = "",
    time_limit: Annotated[float, typer.Option(help="seconds for each solve")] = 120.0,
    order: Annotated[str, typer.Option(help="of first executions: given or any")] = "given",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    headings = ("network", "eager GiB", "budget", "peak", "time +%", "bound +%", "form", "found by", "planned in s")
    table = Table(*headings, "goal", "met")
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    found: list[Row] = []
    for name in only.split(",") if only else NETWORKS:
        for row in rows(name, time_limit, "any" if order == "any" else "given"):
            found.append(row)
            cells = [
                row.network,
                f"{row.eager_peak:.2f}",
                f"{row.budget:.2f}",
                f"{row.peak:.2f}",
                "none" if row.overhead is None else f"{row.overhead:.2f}",
                "" if row.bound is None else f"{row.bound:.2f}",
                row.form,
                row.solver,
                f"{row.seconds:.0f}",
                f"gap {LARGEST_GAP}" if row.goal is None else f"{row.goal}",
                "yes" if row.met else "NO",
            ]
            table.add_row(*cells)
            print(" | ".join(cells), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in found], indent=1))
    if not all(row.met for row in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
