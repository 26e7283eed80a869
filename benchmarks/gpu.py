"""The promise and the price on one GPU: plans beside eager, checkpointing by layer, selective checkpointing and torch.compile.

    python -m benchmarks.gpu [--seconds 570] [--only MODEL ...] [--variants PATTERN ...] [--output DIR] [--cpu]

Writes gpu.json after every row, and gpu.txt; rows that gpu.json has for the same device and torch are not run again, so a run
that was cut off goes on. The headline comes first; models whose turn comes after ``--seconds`` are left out, and named.
``--cpu`` runs tiny models. ``--variants`` leaves out what matches none of the patterns, as file names are matched.

The headline is llama-7b: bf16, 2 x 9,792 tokens, with 35 GB beside parameters and inputs (gradients included), and 2 x 6,528
with 40 GB. Its eager step fits no card of 80 GB: eager's seconds are then worked out from two steps with fewer layers, marked ~
(every layer takes as long, and the rest of the step is in both), or, where layers are no plain list, predicted, marked *.

Each variant is timed in turns with eager where that fits, so that a clock that drifts does not count as overhead. Beside each
baseline stands a plan within the peak that was measured of it ("plan at ..."). The bits of plans for shares are compared with
eager's, over two steps.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

import remat_planner
from benchmarks.gpu_baselines import (
    Checkpointed,
    CheckpointedByEights,
    Shortened,
    compiled,
    every_second_product,
    from_fewer_layers,
    layers_of,
)
from benchmarks.gpu_models import CASES, CPU_CASES, Case
from remat_planner.planner.gpu_allocator import reserved_by
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.planning import Settings, schedule_step, trace_step

Row = dict[str, Any]
STEPS = 5  # timed, after one that warms up
LEAST_STEPS, ENOUGH = 2, 4.0  # no more than the least of them once they took this many seconds


class Bench:
    """One case on one device; every variant is measured on the same parameters and inputs."""

    def __init__(self, case: Case, device: torch.device, time_limit: float) -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        try:  # as they are trained: converted afterwards, they would leave holes in the allocator's cache that eager cannot use
            with device:
                self.model, self.inputs = case.build()
        finally:
            torch.set_default_dtype(torch.float32)
        self.device, self.budgets = device, case.budgets
        self._uniform = case.uniform
        self._settings = Settings(time_limit=time_limit, loss=case.loss)
        self._loss = case.loss or _own_loss
        self._step_of = functools.cache(lambda: trace_step(self.model, (), self.inputs, settings=self._settings))

    def plan(self, budget: str | int) -> remat_planner.Schedule:
        """The schedule within ``budget``: a share, or bytes beside what is always there; the least budget's where none is."""
        step = self._step_of()
        try:
            return schedule_step(step, budget if isinstance(budget, str) else step.graph.constant_bytes + budget)
        except remat_planner.InfeasibleBudgetError as error:
            return schedule_step(step, error.minimum)

    def measured(self, called: Callable[..., Any]) -> Row:
        """Peak above what was there before, and median seconds, of a training step; or that the memory did not suffice.

        ``eager_seconds`` are those of eager's steps between them, or follow from its steps of fewer layers.
        """
        eager = self._eager
        if called is self.model and called not in eager:
            return {"out_of_memory": True}
        try:
            self._timed(called)
            peak = self.peak(called)
            reserved = torch.cuda.max_memory_reserved() if self.device.type == "cuda" else 0
            others = [called, *(other for other in eager if other is not called)]
            seconds: list[list[float]] = [[] for _ in others]
            for number in range(STEPS):
                if number >= LEAST_STEPS and sum(map(sum, seconds)) > ENOUGH:
                    break
                for spent, other in zip(seconds, others, strict=True):
                    spent.append(self._timed(other))
        except torch.OutOfMemoryError:
            return {"out_of_memory": True}
        finally:
            self._tidy()
        row: Row = {"peak_above_constants": peak, "seconds": statistics.median(seconds[0])}
        if self.device.type == "cuda":
            row["reserved"] = reserved
        medians = [statistics.median(spent) for spent in seconds]
        if self.model in eager:
            row["eager_seconds"] = medians[-1]
        elif counts := [other.count for other in eager if isinstance(other, Shortened)]:
            row["eager_seconds"] = from_fewer_layers(medians[1:], counts, len(layers_of(self.model)))
            row["eager_from_layers"] = counts
        return row

    @functools.cached_property
    def _eager(self) -> tuple[Callable[..., Any], ...]:
        """What is timed beside each variant: eager, where it fits; else the model with fewer of its layers, twice."""
        if self._fits(self.model):
            return (self.model,)
        layers = len(layers_of(self.model))
        for parts in (2, 4):
            more = Shortened(self.model, layers // parts)
            if not self._uniform or more.count < 2:
                break
            if self._fits(more):
                return Shortened(self.model, more.count // 2), more
        return ()

    def _fits(self, called: Callable[..., Any]) -> bool:
        try:
            self._timed(called)
        except torch.OutOfMemoryError:
            return False
        finally:
            self._tidy()
        return True

    def _tidy(self) -> None:
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def peak(self, called: Callable[..., Any]) -> int:
        """Bytes of a training step at its highest, above what was there before; the gradients stay."""
        return measure_peak(functools.partial(self.step, called), self.device)

    def bits(self, schedule: remat_planner.Schedule) -> Row:
        """Whether two planned steps have eager's bits; what differs, and what eager itself computes in two ways."""
        found = remat_planner.verify(self.model, schedule, (), self.inputs)
        return {"identical": found.identical, "differences": found.differences, "nondeterministic": found.nondeterministic}

    def step(self, called: Callable[..., Any]) -> torch.Tensor:
        """A training step, and its loss."""
        output = called(**self.inputs)  # held to the end, as plans count it
        loss = self._loss(output)
        loss.backward()
        return loss

    def _timed(self, called: Callable[..., Any]) -> float:
        self._wait()
        began = time.perf_counter()
        self.step(called)
        self._wait()
        spent = time.perf_counter() - began
        self.model.zero_grad(set_to_none=True)
        return spent

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _own_loss(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.loss


def rows_of(bench: Bench, case: Case, found: dict[str, Row]) -> list[tuple[str, Callable[[], Row]]]:
    """What there is to measure, by name, the headline's plans first; ``found`` are the rows before."""

    def planned(budget: str | int) -> Row:
        schedule = bench.plan(budget)
        constants = schedule.graph.constant_bytes
        applied = remat_planner.apply_schedule(bench.model, schedule, audit=False)
        row = bench.measured(applied) | {
            "budget_above_constants": schedule.budget - constants,
            "predicted_peak_above_constants": schedule.peak_bytes - constants,
            "predicted_seconds": schedule.seconds,
            "predicted_eager_seconds": schedule.baseline_seconds,
            "planned_overhead": schedule.overhead,
            "bound_overhead": schedule.bound_overhead,
        }
        if (reserved := reserved_by(schedule)) is not None:
            row |= {"predicted_reserved": reserved.bytes}
        remat_planner.remove_schedule(applied)
        if isinstance(budget, str):  # eager fits, and so do two of its steps' gradients
            row |= bench.bits(schedule)
        return row

    def planned_as(baseline: str) -> Row:
        peak = found[baseline].get("peak_above_constants")
        return {"out_of_memory": True} if peak is None else planned(peak)

    def checked(called: Callable[..., Any]) -> Callable[[], Row]:
        return functools.partial(bench.measured, called)

    baselines: dict[str, Callable[[], Row]] = {"checkpoint each layer": checked(Checkpointed(bench.model))}
    if case.uniform:
        baselines["checkpoint every 8"] = checked(CheckpointedByEights(bench.model))
        baselines["selective"] = checked(Checkpointed(bench.model, every_second_product))
    if bench.device.type == "cuda":
        for budget in (0.5, 0.3):
            baselines[f"compile budget {budget}"] = functools.partial(_compiled_row, bench, budget)
    rows: list[tuple[str, Callable[[], Row]]] = [("eager", checked(bench.model))]
    rows += [(f"plan {budget}", functools.partial(planned, budget)) for budget in bench.budgets]
    rows += baselines.items()
    return rows + [(f"plan at {name}", functools.partial(planned_as, name)) for name in baselines]


def _compiled_row(bench: Bench, budget: float) -> Row:
    return bench.measured(compiled(bench.model, budget))


def table(rows: dict[str, dict[str, Row]]) -> str:
    """The rows as text; overheads are against eager's steps in between, steps of fewer layers (~), or a predicted step (*)."""
    titles = ("peak GB", "predicted", "budget", "step s", "predicted", "extra %", "planned %", "bits")
    lines = [f"{'model':18} {'variant':30} " + " ".join(f"{title:>9}" for title in titles)]
    for name, variants in rows.items():
        predicted = next((r["predicted_eager_seconds"] for r in variants.values() if "predicted_eager_seconds" in r), None)
        for variant, row in variants.items():
            if row.get("out_of_memory"):
                lines.append(f"{name:18} {variant:30} does not fit")
                continue
            base = row.get("eager_seconds", predicted)
            mark = "~" if "eager_from_layers" in row else "" if "eager_seconds" in row else "*"
            cells = [
                *(f"{row[key] / 1e9:.3f}" if key in row else "" for key in _SIZES),
                f"{row['seconds']:.4f}",
                f"{row['predicted_seconds']:.4f}" if "predicted_seconds" in row else "",
                f"{100 * (row['seconds'] / base - 1):.2f}{mark}" if base else "",
                f"{100 * row['planned_overhead']:.2f}" if "planned_overhead" in row else "",
                ("equal" if row["identical"] else "DIFFER") if "identical" in row else "",
            ]
            lines.append(f"{name:18} {variant:30} " + " ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines) + "\n"


_SIZES = ("peak_above_constants", "predicted_peak_above_constants", "budget_above_constants")


def main() -> None:
    """Run what is missing; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=570)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--variants", nargs="*", default=["*"])
    parser.add_argument("--output", type=Path, default=Path("."))
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    deadline = began + asked.seconds
    if not asked.cpu and not torch.cuda.is_available():
        parser.error("no CUDA GPU is here: --cpu runs the same on tiny models")
    device = torch.device("cpu" if asked.cpu else "cuda")
    conditions = {"device": "cpu" if asked.cpu else torch.cuda.get_device_name(), "torch": str(torch.__version__)}
    written = asked.output / "gpu.json"
    document: dict[str, Any] = {"conditions": conditions, "rows": {}}
    if written.exists() and (before := json.loads(written.read_text()))["conditions"] == conditions:
        document = before
    left_out = []
    for name, case in (CPU_CASES if asked.cpu else CASES).items():
        if (asked.only and name not in asked.only) or document["rows"].get(name, {}).get("complete"):
            continue
        if time.monotonic() > deadline:
            left_out.append(name)
            continue
        variants = document["rows"].setdefault(name, {"variants": {}, "complete": False})["variants"]
        bench = Bench(case, device, time_limit=1 if asked.cpu else 5)
        rows = rows_of(bench, case, variants)
        for variant, measure in rows:
            wanted = any(fnmatch(variant, pattern) for pattern in asked.variants)
            if wanted and variant not in variants and time.monotonic() < deadline:
                variants[variant] = measure()
                written.write_text(json.dumps(document, indent=1))
                print(f"{time.monotonic() - began:6.1f} s  {name}: {variant}", file=sys.stderr)
        document["rows"][name]["complete"] = all(variant in variants for variant, _ in rows)
        written.write_text(json.dumps(document, indent=1))
        del bench, rows
        gc.collect()
    text = table({name: row["variants"] for name, row in document["rows"].items()})
    if left_out:
        text += f"left out, no time: {', '.join(left_out)}; run again to go on\n"
    (asked.output / "gpu.txt").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
