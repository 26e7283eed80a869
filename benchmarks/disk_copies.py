"""Copies to a disk on this machine: six models trained with real bytes in a file, each copy delayed at random.

    python -m benchmarks.disk_copies [--models gpt2,resnet,...] [--budgets 70%,min] [--steps 20] [--seconds 20] [--json FILE]

Each row plans a model of the tests' zoo within a share of its peak, with a link fast enough to make copies worth while, and
verifies the plan: three steps have eager's bits, and the measured peak is within the budget and within 1 % of the prediction.
Then further steps run, one in five given up in the middle; each of the others has eager's bits. Meanwhile each copy waits up to
2 ms, before and after, as a draw says. Exits with 1 where a bit differs, a peak is too high, or something is left behind: a
tensor, an open file, a file in the folder. ``benchmarks.soak --copies FOLDER`` trains for thousands of steps.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import remat_planner
from remat_planner.planner.copies import disk_pool
from tests.zoo import ZOO, Case, loss_of

MODELS = ("gpt2", "bert", "t5", "whisper", "resnet", "unet")
_DELAYS = (0.0, 0.0, 0.0005, 0.002)  # seconds
_CLOSE = 0.01
_FAILURES = 5  # one step in so many


@dataclass(frozen=True)
class Row:
    """What one plan came to; bytes, and seconds of a step."""

    model: str
    budget: str
    budget_bytes: int
    predicted_bytes: int
    measured_bytes: int
    eager_bytes: int
    disk_bytes: int
    overhead: float
    steps: int
    given_up: int
    faults: tuple[str, ...]


@contextmanager
def delayed(seed: int) -> Iterator[None]:
    """Every copy begins late and counts as complete late, by delays drawn at random."""
    draw = random.Random(seed)

    def late(function: Callable[..., None]) -> Callable[..., None]:
        def delayed_copy(*args: Any) -> None:
            time.sleep(draw.choice(_DELAYS))
            function(*args)
            time.sleep(draw.choice(_DELAYS))

        return delayed_copy

    with (
        mock.patch.object(disk_pool, "_write", late(disk_pool._write)),
        mock.patch.object(disk_pool, "_read", late(disk_pool._read)),
    ):
        yield


class _GivenUpError(RuntimeError):
    """Thrown on purpose."""


def row(name: str, budget: str, steps: int, seconds: float, folder: Path) -> Row:
    """Plan, verify and train one model."""
    case = ZOO[name]()
    offload = remat_planner.Offload(disk="1GB", folder=folder, disk_link="20GB/s")
    loss = None if case.loss is None else lambda output: loss_of(case, output)
    options: dict[str, Any] = {"loss": loss, "offload": offload, "time_limit": seconds, "verify": False}
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, budget=budget, **options)
    faults = []
    with delayed(0):
        found = remat_planner.verify(case.model, schedule, case.args, case.kwargs, loss=loss)
        if not found.identical:
            faults.append(f"differs: {', '.join(found.differences[:3])}")
        if not found.within_budget:
            faults.append("above the budget")
        if abs(found.measured_peak_bytes / found.predicted_peak_bytes - 1) > _CLOSE:
            faults.append("not as predicted")
        given_up = trained(case, schedule, steps, faults)
    if not schedule.pool_peak_bytes:
        faults.append("copies nothing")
    if left := list(folder.iterdir()):
        faults.append(f"{len(left)} files are left")
    return Row(
        name,
        budget,
        schedule.budget,
        found.predicted_peak_bytes,
        found.measured_peak_bytes,
        schedule.baseline_peak_bytes,
        schedule.pool_peak_bytes.get("disk", 0),
        schedule.overhead,
        steps,
        given_up,
        tuple(faults),
    )


def trained(case: Case, schedule: remat_planner.Schedule, steps: int, faults: list[str]) -> int:
    """Train by ``schedule`` beside eager; tell ``faults``, and return how many steps were given up."""
    eager = copy.deepcopy(case.model)
    planned = remat_planner.apply_schedule(case.model, schedule)
    draw, given_up, before = random.Random(1), 0, (0, 0)
    for number in range(steps):
        if number == steps // 2:
            before = _left()
        if draw.randrange(_FAILURES) == 0 and number:
            given_up += _give_up(case, planned, draw)
            planned.load_state_dict(eager.state_dict())
        ours, theirs = (_step(case, model, number) for model in (planned, eager))
        if not all(map(torch.equal, ours, theirs)) or len(ours) != len(theirs):
            faults.append(f"step {number} differs")
    after = _left()
    if after[0] > before[0]:
        faults.append(f"{after[0] - before[0]} files stay open")
    if after[1] > before[1]:
        faults.append(f"{after[1] - before[1]} tensors stay")
    remat_planner.remove_schedule(planned)
    return given_up


def _step(case: Case, model: nn.Module, seed: int) -> list[torch.Tensor]:
    """Loss, gradients and buffers of one training step."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = loss_of(case, model(*case.args, **case.kwargs))
    loss.backward()
    found = [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    model.zero_grad()
    return [*found, *(b.clone() for b in model.buffers())]


def _give_up(case: Case, model: nn.Module, draw: random.Random) -> int:
    """Begin a step and let the gradient of some parameter fail; 1 if it came to that."""
    trained_ones = [p for p in model.parameters() if p.requires_grad]
    handle = trained_ones[draw.randrange(len(trained_ones))].register_hook(_throw)
    torch.manual_seed(0)
    try:
        loss_of(case, model(*case.args, **case.kwargs)).backward()
    except _GivenUpError:
        return 1
    finally:
        handle.remove()
        model.zero_grad()
    return 0


def _throw(_: torch.Tensor) -> None:
    raise _GivenUpError


def _left() -> tuple[int, int]:
    """Open files and tensors of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def main(
    models: Annotated[str, typer.Option(help="names out of the tests' zoo, by commas")] = ",".join(MODELS),
    budgets: Annotated[str, typer.Option(help="by commas")] = "70%,min",
    steps: Annotated[int, typer.Option(help="training steps of each plan, after it is verified")] = 20,
    seconds: Annotated[float, typer.Option(help="time limit of each plan")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    torch.set_num_threads(1)
    table = Table("model", "budget MB", "peak MB", "predicted", "eager's", "on disk", "time +%", "steps", "given up", "faults")
    found = []
    for name in models.split(","):
        for budget in budgets.split(","):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    one = row(name, budget, steps, seconds, Path(folder))
                except remat_planner.InfeasibleBudgetError as error:
                    print(f"{name} at {budget}: the least budget is {error.minimum:,} bytes", file=sys.stderr, flush=True)
                    continue
            found.append(one)
            sizes = (one.budget_bytes, one.measured_bytes, one.predicted_bytes, one.eager_bytes, one.disk_bytes)
            cells = [name, *(f"{size / 1e6:.3f}" for size in sizes), f"{100 * one.overhead:.2f}", str(one.steps)]
            cells += [str(one.given_up), "; ".join(one.faults) or "none"]
            table.add_row(*cells)
            print(" | ".join(cells), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(one) for one in found], indent=1))
    raise SystemExit(1 if any(one.faults for one in found) else 0)


if __name__ == "__main__":
    typer.run(main)
