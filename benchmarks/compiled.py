"""Compiled within a budget: time and peak beside ``torch.compile``, with and without its ``activation_memory_budget``.

    python -m benchmarks.compiled [--models gpt2,vit] [--seconds 20]

One thread computes. The peak of each rival is measured; ours is compiled with that as its budget, and with shares of the lowest
of them. Then all take steps in turn, in one process, ours after the rival whose peak it was given; in each turn one step runs
before the one that is timed. A time is the median, over the rounds, of a step's seconds on the processor by those of eager's
step, and for ours by those of the rival too.

Gradients are compared with eager's. With dropout, which BERT keeps, they are compared with those of ``torch.compile`` without a
budget, since eager draws other masks than a compiler does. Exits with 1 where ours takes more than its budget, or where a
gradient is further away than twice the furthest of ``torch.compile``; never because of seconds.
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
from benchmarks.gpu_models import llama, resnet, t5, vit
from benchmarks.rivals_models import CASES, Case
from remat_planner.planner.measurement import measure_peak

_LLAMA = {"num_hidden_layers": 3, "hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "vocab_size": 1000}
_VIT = {"num_hidden_layers": 3, "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6, "patch_size": 8}
_T5 = {"num_layers": 2, "d_model": 128, "d_ff": 512, "d_kv": 32, "num_heads": 4, "vocab_size": 1000, "pad_token_id": 0}
_RESNET_50 = {"embedding_size": 32, "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3], "layer_type": "bottleneck"}
_CASES = {
    **CASES,
    "llama": Case(llama(3, 128, **_LLAMA)),
    "vit": Case(vit(6, 64, **_VIT)),
    "t5": Case(t5(4, 96, dropout_rate=0.0, **_T5)),
    "resnet50": Case(resnet(4, 64, **_RESNET_50)),
}
MODELS = ("gpt2", "llama", "bert", "t5", "vit", "resnet50", "unet", "mamba")
DROPOUT = ("bert",)
BUDGETS = "1,0.75,0.5,0.25,0.1"
BELOW = "0.9,0.75,0.6"


@dataclass
class Entry:
    """One way to run the model. Bytes are those above parameters, buffers and inputs.

    Attributes:
        name: of the way.
        step: runs forward, loss and backward.
        peak: measured bytes.
        compile_seconds: of the processor, by this process and the compilers that it started.
        difference: largest difference of a gradient from those it is compared with, by the largest gradient.
        rival: of ours, the name of the ``torch.compile`` at whose peak it was compiled.
        budget: of ours.
        predicted: peak of ours.
        attempts: how often ours was compiled.
        recomputed: operators that the backward of ours runs again.
    """

    name: str
    step: Callable[[], None]
    peak: int
    compile_seconds: float
    difference: float
    rival: str = ""
    budget: int = 0
    predicted: int = 0
    attempts: int = 0
    recomputed: int = 0


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


@dataclass
class _Case:
    model: nn.Module
    inputs: dict[str, Any]
    loss: Any
    gradients: list[torch.Tensor]

    def entry(self, name: str, make: Callable[[], Any], **facts: Any) -> Entry:
        started = _processor_seconds()
        step = _step(self.model, make(), self.inputs, self.loss)
        gradients = self.of_one(step)
        took = _processor_seconds() - started
        self.gradients = self.gradients or gradients
        largest = max(float(gradient.abs().max()) for gradient in self.gradients)
        difference = max(float((a - b).abs().max()) / largest for a, b in zip(gradients, self.gradients, strict=True))
        entry = Entry(name, step, measure_peak(step), took, difference, **facts)
        print(f"{name}: {entry.peak / 1e6:.2f} MB, compiled in {took:.0f} s", file=sys.stderr, flush=True)
        return entry

    def of_one(self, step: Callable[[], None]) -> list[torch.Tensor]:
        """The gradients of one step."""
        torch.manual_seed(1)
        step()
        gradients = [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]
        self.model.zero_grad(set_to_none=True)
        return gradients

    @property
    def constant(self) -> int:
        return sum(t.nbytes for t in [*self.model.parameters(), *self.model.buffers(), *self.inputs.values()])


def entries_of(name: str, budgets: list[float], below: list[float]) -> list[Entry]:
    """The ways to run the model ``name``, ours after the rival whose peak it has.

    ``budgets`` are those of ``torch.compile``, ``below`` shares of the lowest peak.
    """
    built = _CASES[name]
    torch.manual_seed(0)
    model, inputs = built.build()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and name not in DROPOUT:
            module.p = 0.0
    case = _Case(model, inputs, built.loss, [])
    eager = _step(model, model, inputs, built.loss)
    if name not in DROPOUT:
        case.gradients = case.of_one(eager)
    entries = [Entry("eager", eager, measure_peak(eager), 0.0, 0.0)]
    rivals = []
    for budget in budgets:
        torch._functorch.config.activation_memory_budget = budget
        # A backend of its own, or torch.compile would take the code that it made for another budget.
        inductor: Any = torch._dynamo.lookup_backend("inductor")
        backend = functools.partial(inductor, config_patches={"fx_graph_cache": False})
        rivals.append(
            case.entry(f"torch.compile {budget:g}", functools.partial(torch.compile, model, dynamic=False, backend=backend))
        )
        torch._functorch.config.activation_memory_budget = 1.0
    at = {rival.peak: rival for rival in rivals}
    for rival in rivals:
        entries.append(rival)
        if at[rival.peak] is rival:
            entries += _ours(name, case, rival.peak, f"at that of {rival.name.removeprefix('torch.compile ')}", rival.name)
    for share in below:
        entries += _ours(name, case, int(share * min(at)), f"at {share:g} of the lowest", "")
    return entries


def _ours(name: str, case: _Case, peak: int, where: str, rival: str) -> list[Entry]:
    steps = []

    def make() -> nn.Module:
        compiled = remat_planner.compile(case.model, (), case.inputs, budget=case.constant + peak, loss=case.loss)
        steps.append(remat_planner.compiled_step(compiled))
        return compiled

    try:
        entry = case.entry(f"ours {where}", make, rival=rival, budget=peak)
    except remat_planner.InfeasibleBudgetError as error:
        print(f"{name}: ours {where}, {peak / 1e6:.2f} MB: {error}", flush=True)
        return []
    (step,) = steps
    entry.predicted, entry.attempts = step.predicted_peak_bytes - case.constant, step.attempts
    entry.recomputed = sum(len(part.recomputed) for part in step.parts)
    return [entry]


def measure(entries: list[Entry], seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """The time of each entry in steps of eager, and that of ours in steps of the rival."""
    times: dict[str, list[float]] = {entry.name: [] for entry in entries}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["eager"]) < 5:
        for entry in entries:
            entry.step()
            started = time.process_time()
            entry.step()
            times[entry.name].append(time.process_time() - started)

    def ratio(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))

    by_eager = {entry.name: ratio(entry.name, "eager") for entry in entries}
    return by_eager, {entry.name: ratio(entry.name, entry.rival) for entry in entries if entry.rival}


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(_CASES)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="of alternating steps for each model")
    parser.add_argument("--budgets", default=BUDGETS, help="of torch.compile; 1 is none")
    parser.add_argument("--below", default=BELOW, help="shares of the lowest peak, where ours goes on; may be empty")
    options = parser.parse_args()
    budgets, below = ([float(part) for part in text.split(",") if part] for text in (options.budgets, options.below))
    torch.set_num_threads(1)
    failed = False
    ratios: list[float] = []
    for name in options.models.split(","):
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = 64
        entries = entries_of(name, budgets, below)
        by_eager, by_rival = measure(entries, options.seconds)
        allowed = max(entry.difference for entry in entries if entry.name == "torch.compile 1")
        for entry in entries:
            line = f"{name:8} {entry.name:24} time {by_eager[entry.name]:.3f}  peak {entry.peak / 1e6:8.2f} MB"
            line += f"  compiled in {entry.compile_seconds:6.1f} s  gradients off by {entry.difference:.1e}"
            if entry.budget:
                line += f"  predicted {entry.predicted / 1e6:8.2f} MB, {entry.recomputed} again, {entry.attempts} attempts"
                failed |= entry.peak > entry.budget or entry.difference > max(2 * allowed, 1e-4)
            if entry.rival:
                line += f", {by_rival[entry.name]:.3f} of {entry.rival}"
                ratios += [by_rival[entry.name]] if entry.recomputed else []
            print(line, flush=True)
    if ratios:
        print(f"geometric mean of the rows that recompute: {statistics.geometric_mean(ratios):.3f} ({len(ratios)})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
