"""Copies beside the device: link rates, and plans with copies beside eager, with peak, bits and seconds, also with traps.

    python -m benchmarks.gpu_offload [--seconds 170] [--output DIR] [--cpu]

On a GPU the copies go to pinned host memory. For GPT-2 medium and a 7B decoder of a few layers, at 50 and 35 % of the peak
without recomputation, a row has the measured and the predicted peak and seconds, whether two steps have eager's bits, the same
while every copy is delayed (``torch.cuda._sleep`` on the copying streams), and beside it the policy that offloads everything.
``--cpu`` runs tiny models with copies to a file, delayed by sleeping: the same code, and what can be tried of it without a GPU.
Writes gpu_offload.json after every row, and gpu_offload.txt. What has no time left is named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import remat_planner
from benchmarks.gpu_models import CASES, CPU_CASES, SHORT_7B, Case
from remat_planner.planner.copies import disk_pool, host_pool
from remat_planner.tracer.costs import MEASURE, host_channels, measured_disk_channels

BUDGETS = ("50%", "35%")
GPU_CASES = {"gpt2-medium": CASES["gpt2-medium"], "llama-7b, 4 layers": SHORT_7B}
STEPS = 5  # timed, after one that warms up
CYCLES = 10**6  # of a delay on a stream: about half a millisecond
TITLES = ("model", "variant", "peak GB", "predicted", "copies GB", "step ms", "predicted", "eager ms", "bits", "delayed")


class Bench:
    """One model on the device, with its copies."""

    def __init__(self, case: Case, device: torch.device, folder: Path) -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        try:
            with device:
                self.model, self.inputs = case.build()
        finally:
            torch.set_default_dtype(torch.float32)
        self._device, self._given_loss = device, case.loss
        on_gpu = device.type == "cuda"
        # A disk is too slow for a model that small to copy anything: the rate is made up.
        disk = remat_planner.Offload(disk="1GB", folder=folder, disk_link="100GB/s")
        self._offload = remat_planner.Offload(host="40GB") if on_gpu else disk
        self.eager_seconds = self._seconds(self.model)

    def row(self, budget: str, solver: str) -> dict[str, Any]:
        """A plan within ``budget``, run and compared; or the least budget of the solver where it has none."""
        try:
            schedule = remat_planner.plan(
                self.model,
                (),
                self.inputs,
                budget=budget,
                solver=solver,
                time_limit=8,
                loss=self._given_loss,
                offload=self._offload,
                verify=False,
            )
        except remat_planner.InfeasibleBudgetError as error:
            return {"least_budget": error.minimum}
        assert isinstance(schedule, remat_planner.Schedule)
        found = remat_planner.verify(self.model, schedule, (), self.inputs, loss=self._given_loss)
        planned = remat_planner.apply_schedule(self.model, schedule, loss=self._given_loss, audit=False)
        try:
            seconds = self._seconds(planned)
            delayed = self._delayed_bits(planned) if not found.nondeterministic else None
        finally:
            remat_planner.remove_schedule(planned)
        return {
            "peak": found.measured_peak_bytes,
            "predicted_peak": found.predicted_peak_bytes,
            "within_budget": found.within_budget,
            "pool_bytes": dict(found.pool_bytes),
            "seconds": seconds,
            "predicted_seconds": schedule.seconds,
            "predicted_eager_seconds": schedule.baseline_seconds,
            "eager_seconds": self.eager_seconds,
            "bound_overhead": schedule.bound_overhead,
            "identical": found.identical,
            "differences": list(found.differences),
            "nondeterministic": len(found.nondeterministic),
            "identical_delayed": delayed,
        }

    def _delayed_bits(self, planned: nn.Module) -> bool:
        """Whether the gradients of a step are eager's while every copy is late."""
        expected = self._gradients(self.model)
        with _late_copies(self._device):
            found = self._gradients(planned)
        return len(expected) == len(found) > 0 and all(map(torch.equal, expected, found))

    def _gradients(self, called: nn.Module) -> list[torch.Tensor]:
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        self._step(called)
        return [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]

    def _step(self, called: nn.Module) -> None:
        output = called(**self.inputs)
        loss = output if isinstance(output, torch.Tensor) else output.loss
        if self._given_loss is not None:
            loss = self._given_loss(output)
        loss.backward()

    def _seconds(self, called: nn.Module) -> float:
        """Median seconds of a step."""
        spent = []
        for _ in range(STEPS + 1):
            self.model.zero_grad(set_to_none=True)
            self._wait()
            began = time.perf_counter()
            self._step(called)
            self._wait()
            spent.append(time.perf_counter() - began)
        return statistics.median(spent[1:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def _late_copies(device: torch.device) -> Iterator[None]:
    """Delay every copy, and what follows it on its stream or thread."""

    def late(copy: Callable[..., None], sleep: Callable[[], object]) -> Callable[..., None]:
        def copy_late(*args: Any) -> None:
            sleep()
            copy(*args)
            sleep()

        return copy_late

    if device.type == "cuda":
        with mock.patch.object(host_pool, "start_copy", late(host_pool.start_copy, lambda: torch.cuda._sleep(CYCLES))):  # type: ignore[no-untyped-call]
            yield
        return
    sleep = lambda: time.sleep(0.001)  # noqa: E731
    with (
        mock.patch.object(disk_pool, "_write", late(disk_pool._write, sleep)),
        mock.patch.object(disk_pool, "_read", late(disk_pool._read, sleep)),
    ):
        yield


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [" | ".join(TITLES)]
    for row in rows:
        name = [row["model"], row["variant"]]
        if "least_budget" in row:
            lines.append(" | ".join([*name, f"no plan; the least budget found is {row['least_budget'] / 1e9:.3f} GB"]))
            continue
        late = {True: "equal", False: "DIFFER", None: "eager varies"}[row["identical_delayed"]]
        cells = [
            *(f"{row[key] / 1e9:.3f}" for key in ("peak", "predicted_peak")),
            f"{sum(row['pool_bytes'].values()) / 1e9:.3f}",
            *(f"{1e3 * row[key]:.1f}" for key in ("seconds", "predicted_seconds", "eager_seconds")),
            "equal" if row["identical"] else "DIFFER",
            late,
        ]
        lines.append(" | ".join([*name, *cells]))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run it; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--output", type=Path, default=Path("."))
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    if not asked.cpu and not torch.cuda.is_available():
        parser.error("no CUDA GPU is here: --cpu runs the same on tiny models, with copies to a file")
    deadline = time.monotonic() + asked.seconds
    device = torch.device("cpu" if asked.cpu else "cuda")
    cases = dict(list(CPU_CASES.items())[:1]) if asked.cpu else GPU_CASES
    rows: list[dict[str, Any]] = []
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        channels = measured_disk_channels(Path(folder)) if asked.cpu else host_channels(device, MEASURE)
        rates = {
            way: {"bytes_per_second": c.bytes_per_second, "latency": c.latency, "slowdown": c.slowdown}
            for way, c in zip(("out", "in"), channels, strict=True)
        }
        conditions = {"device": "cpu" if asked.cpu else torch.cuda.get_device_name(), "torch": str(torch.__version__)}
        for name, case in cases.items():
            bench: Bench | None = None
            for budget, solver in [(b, s) for b in BUDGETS for s in ("auto", "offload-all")]:
                variant = f"{solver} {budget}"
                if time.monotonic() > deadline:
                    left_out.append(f"{name} {variant}")
                    continue
                bench = bench or Bench(case, device, Path(folder))
                rows.append({"model": name, "variant": variant, **bench.row(budget, solver)})
                document = {"conditions": conditions, "link": rates, "rows": rows}
                (asked.output / "gpu_offload.json").write_text(json.dumps(document, indent=1))
                print(f"{deadline - time.monotonic():6.1f} s left  {name}: {variant}", file=sys.stderr)
    lines = [f"{way} {rate['bytes_per_second'] / 1e9:.2f} GB/s, ops x {rate['slowdown']}" for way, rate in rates.items()]
    text = "\n".join(lines) + "\n" + table(rows)
    if left_out:
        text += f"left out, no time: {', '.join(left_out)}\n"
    (asked.output / "gpu_offload.txt").write_text(text)
    print(text, end="")
    if any(not row.get("identical", True) or row.get("identical_delayed") is False for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
