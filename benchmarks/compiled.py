"""Compiled within a budget: time and peak beside ``torch.compile``, with and without its ``activation_memory_budget``.

    python -m benchmarks.compiled [--models gpt2,vit] [--seconds 20]

One thread computes. The peak of each rival is measured; ours is compiled with that as its budget, and with shares of the lowest
of them. Then all take steps in turn, in one process. A time is the median, over the rounds, of a step's seconds on the
processor by those of eager's step beside it. Dropout is off, since eager draws other masks than a compiler does. Exits with 1
where ours takes more than its budget, or where a gradient is further from eager's than twice the furthest of ``torch.compile``;
never because of seconds.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import nn

import remat_planner
from benchmarks.rivals_models import CASES
from remat_planner.planner.measurement import measure_peak

MODELS = ("gpt2", "llama", "vit", "bert")
BUDGETS = "1,0.75,0.5,0.25,0.1"
BELOW = "0.9,0.75,0.6"


@dataclass
class Entry:
    """One way to run the model.

    Attributes:
        name: of the way.
        step: runs forward, loss and backward.
        peak: measured bytes above parameters, buffers and inputs.
        compile_seconds: of the processor, by this process and the compilers that it started.
        difference: largest difference of a gradient from eager's, by the largest gradient.
    """

    name: str
    step: Callable[[], None]
    peak: int

    compile_seconds: float
    difference: float


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _step(model: nn.Module, called: nn.Module, inputs: dict[str, Any], loss: Any) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        output = called(**inputs)
        if loss is not None:
            output = loss(output)
        (output if isinstance(output, torch.Tensor) else output.loss).backward()

    return step


def _entry(
    name: str, model: nn.Module, make: Callable[[], nn.Module], inputs: Any, loss: Any, eager: list[torch.Tensor]
) -> Entry:
    started = _processor_seconds()
    called = make()
    step = _step(model, called, inputs, loss)
    torch.manual_seed(1)
    step()
    took = _processor_seconds() - started
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    largest = max(float(gradient.abs().max()) for gradient in eager) if eager else 1.0
    difference = max((float((a - b).abs().max()) / largest for a, b in zip(gradients, eager, strict=True)), default=0.0)
    model.zero_grad(set_to_none=True)
    peak = measure_peak(step)
    return Entry(name, step, peak, took, difference)


def measure(name: str, seconds: float, budgets: list[float], below: list[float]) -> tuple[list[Entry], dict[str, float]]:
    """The ways to run the model ``name``, and the time of each in steps of eager.

    ``budgets`` are those of ``torch.compile``, ``below`` shares of the lowest peak.
    """
    case = CASES[name]
    torch.manual_seed(0)
    model, inputs = case.build()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    eager_step = _step(model, model, inputs, case.loss)
    eager_step()
    eager = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    entries = [Entry("eager", eager_step, measure_peak(eager_step), 0.0, 0.0)]
    for budget in budgets:
        torch._functorch.config.activation_memory_budget = budget
        # A backend of its own, or torch.compile would take the code that it made for another budget.
        inductor: Any = torch._dynamo.lookup_backend("inductor")
        backend = functools.partial(inductor, config_patches={"fx_graph_cache": False})
        rival: Any = functools.partial(torch.compile, model, dynamic=False, backend=backend)
        entries.append(_entry(f"torch.compile {budget:g}", model, rival, inputs, case.loss, eager))
        torch._functorch.config.activation_memory_budget = 1.0
    lowest = min(entry.peak for entry in entries)
    constant = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *inputs.values()])
    wanted = dict.fromkeys([entry.peak for entry in entries[1:]] + [int(share * lowest) for share in below])
    for peak in wanted:
        ours = functools.partial(remat_planner.compile, model, (), inputs, budget=constant + peak, loss=case.loss)
        try:
            entries.append(_entry(f"ours at {peak / 1e6:.2f}", model, ours, inputs, case.loss, eager))
        except remat_planner.InfeasibleBudgetError as error:
            print(f"{name}: ours at {peak / 1e6:.2f} MB: {error}")
    times: dict[str, list[float]] = {entry.name: [] for entry in entries}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["eager"]) < 5:
        base = None
        for entry in entries:
            started = time.process_time()
            entry.step()
            took = time.process_time() - started
            base = took if base is None else base
            times[entry.name].append(took / base)
    return entries, {entry: statistics.median(of) for entry, of in times.items()}


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="of alternating steps for each model")
    parser.add_argument("--budgets", default=BUDGETS, help="of torch.compile; 1 is none")
    parser.add_argument("--below", default=BELOW, help="shares of the lowest peak, where ours goes on; may be empty")
    options = parser.parse_args()
    budgets, below = ([float(part) for part in text.split(",") if part] for text in (options.budgets, options.below))
    torch.set_num_threads(1)
    failed = False
    for name in options.models.split(","):
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = 64
        entries, times = measure(name, options.seconds, budgets, below)
        allowed = max(entry.difference for entry in entries if entry.name.startswith("torch.compile"))
        for entry in entries:
            print(
                f"{name:8} {entry.name:20} time {times[entry.name]:.3f}  peak {entry.peak / 1e6:8.2f} MB  "
                f"compiled in {entry.compile_seconds:6.1f} s  gradients off by {entry.difference:.1e}",
                flush=True,
            )
            if entry.name.startswith("ours"):
                above = entry.peak > float(entry.name.split()[-1]) * 1e6 + 5e3
                failed |= above or entry.difference > max(2 * allowed, 1e-4)
    sys.exit(failed)


if __name__ == "__main__":
    main()
