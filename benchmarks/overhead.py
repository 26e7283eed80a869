"""Is the predicted time of a plan the time that its step takes? Predicted and measured extra time of twelve models.

    python -m benchmarks.overhead [--only gpt2,unet] [--budgets 100,80,60] [--busy] [--json FILE]

Each model is planned at each budget (a share of its peak without recomputation). Then the planned steps run in turn in one
process, with eager's before and after each. In each turn one step runs before those that are timed, since training runs steps
of one kind, and finds the heap and the caches as they left them. The measured extra time is the median, over the rounds, of a
planned step's seconds by the mean of the two eager turns around it, less 1: what bends a machine for longer than two turns
cancels. One thread computes, and the seconds are those for which it had the processor. "+-" is how far that may be off: the
standard deviation of 200 such medians, from rounds drawn anew.

At 100 % next to nothing is recomputed: what is measured there is what a planned step costs beside the recomputation.

``--busy`` plans and measures beside a process that multiplies matrices and copies memory all the time.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import remat_planner
from benchmarks.gpu_models import Built, Case
from benchmarks.rivals_models import CASES
from remat_planner import InfeasibleBudgetError

TURN = 0.05
"""Seconds of the timed steps of a turn together, at least one step."""
WARM_UP = 2
"""Steps of each variant that are not timed."""
_DRAWS = 200
LEAST_ROUNDS = 8
"""However long they take."""
_NEIGHBOUR = """
import torch
torch.set_num_threads(1)
a, b = torch.randn(512, 512), torch.randn(1 << 22)
while True:
    a @ a
    b.clone()
"""


class Block(nn.Module):
    """A transformer layer without anything around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, tokens, width] to the same."""
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 4, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _tiny_blocks() -> Built:
    return nn.Sequential(*[Block(64) for _ in range(24)]), {"input": torch.randn(2, 16, 64)}


def _tiny_mlp() -> Built:
    return nn.Sequential(*[layer for _ in range(24) for layer in (nn.Linear(64, 64), nn.ReLU())]), {"input": torch.randn(8, 64)}


def _mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.pow(2).mean()


MODELS = {
    "tiny mlp": Case(_tiny_mlp, loss=_mean_square),  # a step of a millisecond: what is done once a step shows
    "tiny blocks": Case(_tiny_blocks, loss=_mean_square),  # a thousand ops of microseconds: what is done once an op shows
    **CASES,
}


@dataclass(frozen=True)
class Row:
    """One model at one budget; extra times are shares of eager's step.

    Attributes:
        budget: percent of the peak without recomputation, or "least" where that is below what works.
        spread: standard deviation of the measured number, over rounds drawn anew.
    """

    model: str
    budget: str
    eager_seconds: float
    predicted_eager_seconds: float
    predicted: float
    measured: float
    spread: float
    ops: int
    steps: int
    rounds: int

    @property
    def off(self) -> float:
        """How much longer the step takes than predicted, as a share of eager's."""
        return self.measured - self.predicted


class Trained:
    """A model, its inputs and its loss."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.model, self.inputs = case.build()
        self.loss = case.loss

    def plan(self, budget: str, time_limit: float) -> remat_planner.Schedule:
        """A plan of the whole model."""
        named = {"loss": self.loss, "time_limit": time_limit, "verify": False}
        plan = remat_planner.plan(self.model, (), self.inputs, budget=budget, whole=True, **named)
        assert isinstance(plan, remat_planner.Schedule)
        return plan

    def turn(self, called: nn.Module) -> float:
        """Processor seconds of a step, after one that is not timed."""
        self.step(called)
        spent = [self.step(called)]
        while sum(spent) < TURN:
            spent.append(self.step(called))
        return statistics.median(spent)

    def step(self, called: nn.Module) -> float:
        """Processor seconds of a step."""
        began = time.process_time()
        output = called(**self.inputs)
        loss = self.loss(output) if self.loss is not None else _own_loss(output)
        loss.backward()
        spent = time.process_time() - began
        self.model.zero_grad(set_to_none=True)
        return spent


def _own_loss(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.loss


def rows(name: str, budgets: Sequence[str], time_limit: float, seconds: float) -> Iterator[Row]:
    """Predicted and measured extra time of one model."""
    trained = Trained(MODELS[name])
    plans = {}
    for budget in budgets:
        try:
            plans[budget] = trained.plan(budget, time_limit)
        except InfeasibleBudgetError:
            plans["least"] = trained.plan("min", time_limit)
    planned = [remat_planner.apply_schedule(trained.model, plan, audit=False) for plan in plans.values()]
    eager, extra = _measured(trained, planned, seconds)
    draws = random.Random(0)
    for (budget, plan), of_rounds in zip(plans.items(), extra, strict=True):
        spread = statistics.stdev(statistics.median(draws.choices(of_rounds, k=len(of_rounds))) for _ in range(_DRAWS))
        sizes = {"ops": len(plan.graph.ops), "steps": len(plan.steps), "rounds": len(of_rounds)}
        yield Row(name, budget, eager, plan.baseline_seconds, plan.overhead, statistics.median(of_rounds), spread, **sizes)


def _measured(trained: Trained, planned: Sequence[nn.Module], seconds: float) -> tuple[float, list[list[float]]]:
    """Seconds of eager's step, and for each planned model its extra time in each round, as a share of eager's beside it."""
    for called in (*planned, trained.model):  # eager last: a step without the plan before the planned one is warned of
        for _ in range(WARM_UP):
            trained.step(called)
    gc.collect()
    gc.freeze()
    gc.disable()
    eager = [trained.turn(trained.model)]
    extra: list[list[float]] = [[] for _ in planned]
    began = time.process_time()
    try:
        while len(extra[0]) < LEAST_ROUNDS or time.process_time() - began < seconds:
            for called, of_rounds in zip(planned, extra, strict=True):
                spent = trained.turn(called)
                eager.append(trained.turn(trained.model))
                of_rounds.append(2 * spent / (eager[-2] + eager[-1]) - 1)
            gc.collect(0)
    finally:
        gc.enable()
        gc.unfreeze()
    return statistics.median(eager), extra


@contextmanager
def neighbour(*, busy: bool) -> Iterator[None]:
    """A busy process beside this one."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main(
    only: Annotated[str, typer.Option(help="models, separated by commas")] = "",
    budgets: Annotated[str, typer.Option(help="percent of the peak without recomputation, separated by commas")] = "100,80,60",
    busy: Annotated[bool, typer.Option("--busy", help="beside a process that is busy all the time")] = False,
    seconds: Annotated[float, typer.Option(help="processor seconds of all rounds of a model, at least 8 rounds")] = 60.0,
    time_limit: Annotated[float, typer.Option(help="seconds for each solve")] = 2.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("transformers", "remat_planner"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = Table("model", "budget", "eager ms", "ops' sum ms", "predicted +%", "measured +%", "+-", "off, points")
    found: list[Row] = []
    with neighbour(busy=busy):
        for name in only.split(",") if only else MODELS:
            for row in rows(name, [f"{share}%" for share in budgets.split(",")], time_limit, seconds):
                found.append(row)
                cells = (
                    row.model,
                    row.budget,
                    f"{1e3 * row.eager_seconds:.2f}",
                    f"{1e3 * row.predicted_eager_seconds:.2f}",
                    f"{100 * row.predicted:.1f}",
                    f"{100 * row.measured:.1f}",
                    f"{100 * row.spread:.1f}",
                    f"{100 * row.off:+.1f}",
                )
                table.add_row(*cells)
                print(" | ".join(cells), file=sys.stderr, flush=True)
            table.add_section()
    Console(width=120).print(table)
    off = [abs(row.off) for row in found]
    near = sum(o <= 0.01 for o in off)
    print(
        f"{near} of {len(off)} within 1.0 point; on average {100 * statistics.mean(off):.1f}, at most {100 * max(off):.1f} off"
    )
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) | {"off": row.off} for row in found], indent=1))


if __name__ == "__main__":
    typer.run(main)
