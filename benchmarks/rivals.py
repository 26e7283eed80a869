"""The same bytes, whose step is faster? Plans beside what else recomputes, at the peak that was measured of each.

    python -m benchmarks.rivals [--quick] [--only gpt2,unet] [--json FILE]

The rivals: ``torch.utils.checkpoint`` around each block, selective checkpointing (attention and every second product kept), and
``torch.compile`` with the backend "aot_eager" and an ``activation_memory_budget`` of 0.75, 0.5, 0.25 and 0. For each its true
peak is measured; ours is planned with that as the budget, and measured too. Then eager, the rival and ours take steps in turn,
in an order that rotates; an overhead is the median, over the rounds, of a step's seconds by those of eager's beside it, less 1.
One thread computes, and the seconds are those for which it had the processor, so that other processes count little.

``ours/theirs`` is the ratio of the two overheads, each taken for ``FLOOR`` where it is less or below nothing: so much is noise,
and ratios of noise say nothing. Where nothing need be recomputed ("planned" is 0), what is compared is eager's own step run
by a plan with the rival's. The summary is the geometric mean of these ratios.

Loss, gradients and buffers of one step are compared with eager's: "same" bits, "rounded" (further off than that by no more than
``remat_planner.verify`` calls close), or wrong. What eager itself computes otherwise a second time is left out.

Exits with 1 where ours takes more than the rival's peak or has other bits than eager; never because of seconds.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import remat_planner
from benchmarks.gpu import Bench, Checkpointed, compiled, every_second_product
from benchmarks.rivals_models import CASES, QUICK_CASES
from remat_planner.planner.measurement import ToleranceCheck, same_bits, state_restored

FLOOR = 0.01  # the least overhead that these measurements tell from none
BUDGETS = (0.75, 0.5, 0.25, 0.0)
QUICK_BUDGETS = (0.5,)

Called = Callable[..., Any]
Named = dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Bits:
    """How a step's loss, gradients and buffers differ from eager's.

    Attributes:
        rounded: how many tensors are of other bits, but close.
        wrong: how many gradients are not close.
        buffers: how many buffers are not close.
        loss: whether the loss is not close: other numbers were drawn, and gradients belong to them.
    """

    rounded: int
    wrong: int
    buffers: int
    loss: bool

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.rounded or self.wrong or self.buffers or self.loss)

    def __str__(self) -> str:
        if self.loss:
            return "other loss"
        counts = ((self.wrong, "WRONG"), (self.buffers, "wrong buffers"), (self.rounded, "rounded"))
        return ", ".join(f"{count} {what}" for count, what in counts if count) or "same"


@dataclass(frozen=True)
class Row:
    """One rival on one model, and ours at its peak; bytes are above parameters, buffers and inputs.

    ``planned`` is the overhead that the plan predicts of itself.
    """

    model: str
    rival: str
    eager_seconds: float
    eager_peak: int
    rival_peak: int
    rival_overhead: float
    rival_bits: Bits
    our_peak: int
    our_overhead: float
    our_bits: Bits
    planned: float
    rounds: int

    @property
    def ratio(self) -> float:
        """Our overhead by the rival's."""
        return max(self.our_overhead, FLOOR) / max(self.rival_overhead, FLOOR)

    @property
    def kept(self) -> bool:
        """Whether ours keeps to the rival's peak, with eager's bits."""
        return self.our_peak <= self.rival_peak and self.our_bits.same


def rivals_of(model: nn.Module, budgets: Sequence[float]) -> Iterator[tuple[str, Callable[[], Called]]]:
    """Each rival by name, made when it is its turn: compiling one forgets those that were compiled before."""
    yield "checkpoint", lambda: Checkpointed(model)
    yield "selective", lambda: Checkpointed(model, every_second_product)
    for budget in budgets:
        yield f"compile {budget:g}", functools.partial(compiled, model, budget, "aot_eager")


def rows(name: str, bench: Bench, *, budgets: Sequence[float], rounds: int) -> Iterator[Row | tuple[str, str]]:
    """Every rival on one model, as its turn comes; of one that fails to run, its name and the error."""
    with state_restored(bench.model, kwargs=bench.inputs) as state:
        yield from _rows(name, bench, state.restart, budgets, rounds)


def _rows(
    name: str, bench: Bench, restart: Callable[[], None], budgets: Sequence[float], rounds: int
) -> Iterator[Row | tuple[str, str]]:
    eager_peak = _warm_peak(bench, bench.model)
    expected, again = _results(bench, bench.model, restart), _results(bench, bench.model, restart)
    unsteady = {name for name, tensor in expected.items() if not same_bits(tensor, again[name])}
    plan = functools.cache(bench.plan)
    for rival, make in rivals_of(bench.model, budgets):
        try:
            called = make()
            rival_peak = _warm_peak(bench, called)
            rival_bits = _bits(expected, unsteady, _results(bench, called, restart))
        except Exception as error:  # whatever a compiler cannot compile: the others are still to be compared
            yield rival, f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        schedule = plan(rival_peak)
        ours = remat_planner.apply_schedule(bench.model, schedule, audit=False)
        our_peak = _warm_peak(bench, ours)
        our_bits = _bits(expected, unsteady, _results(bench, ours, restart))
        eager_seconds, rival_overhead, our_overhead = overheads(bench, called, ours, rounds)
        yield Row(
            model=name,
            rival=rival,
            eager_seconds=eager_seconds,
            eager_peak=eager_peak,
            rival_peak=rival_peak,
            rival_overhead=rival_overhead,
            rival_bits=rival_bits,
            our_peak=our_peak,
            our_overhead=our_overhead,
            our_bits=our_bits,
            planned=schedule.overhead,
            rounds=rounds,
        )


def overheads(bench: Bench, rival: Called, ours: Called, rounds: int) -> tuple[float, float, float]:
    """Seconds of an eager step, and how much longer the rival's and ours take, as shares of it."""
    variants: list[Called] = [bench.model, rival, ours]
    times = []
    gc.collect()
    gc.freeze()  # to collect between steps, not in them, would take long with all that PyTorch has loaded
    gc.disable()
    try:
        for number in range(rounds):
            spent = [0.0] * len(variants)
            for turn in range(len(variants)):
                which = (number + turn) % len(variants)
                spent[which] = _seconds(bench, variants[which])
            times.append(spent)
    finally:
        gc.enable()
        gc.unfreeze()
    eager = statistics.median(spent[0] for spent in times)
    rivals, our = (statistics.median(spent[k] / spent[0] for spent in times) - 1 for k in (1, 2))
    return eager, rivals, our


def _seconds(bench: Bench, called: Called) -> float:
    began = time.process_time()
    bench.step(called)
    spent = time.process_time() - began
    bench.model.zero_grad(set_to_none=True)
    gc.collect()
    return spent


def _warm_peak(bench: Bench, called: Called) -> int:
    """Bytes of a step that is not the first: what is compiled or kept once does not count."""
    for _ in range(2):
        bench.step(called)
        bench.model.zero_grad(set_to_none=True)
    peak = bench.peak(called)
    bench.model.zero_grad(set_to_none=True)
    return peak


def _results(bench: Bench, called: Called, restart: Callable[[], None]) -> Named:
    """Loss, gradients and buffers of a step from where every other call of this starts, random numbers included."""
    restart()
    found: Named = {"step 1: loss": bench.step(called).detach()}
    found |= {f"step 1: gradient of {name}": p.grad for name, p in bench.model.named_parameters() if p.requires_grad}
    found |= {f"step 1: buffer {name}": buffer.clone() for name, buffer in bench.model.named_buffers()}
    bench.model.zero_grad(set_to_none=True)
    return found


def _bits(expected: Named, unsteady: set[str], found: Named) -> Bits:
    rounded, far = 0, []
    for name, tensor in found.items():
        if name in unsteady or same_bits(expected[name], tensor):
            continue
        check = ToleranceCheck(expected)
        check.add(name, tensor)
        if check.all_close:
            rounded += 1
        else:
            far.append(name.removeprefix("step 1: "))
    wrong, buffers = (sum(name.startswith(kind) for name in far) for kind in ("gradient", "buffer"))
    return Bits(rounded=rounded, wrong=wrong, buffers=buffers, loss="loss" in far)


def summary(found: list[Row]) -> Table:
    """For each rival and all of them: the geometric mean of the ratios, mean overheads, and whose gradients are wrong."""
    table = Table("rival", "models", "ours/theirs", "not slower", "theirs +%", "ours +%", "theirs wrong on", "ours wrong on")
    names = list(dict.fromkeys(row.rival for row in found))
    for name in [*names, "all"]:
        chosen = [row for row in found if name in (row.rival, "all")]
        table.add_row(
            name,
            str(len(chosen)),
            f"{statistics.geometric_mean(row.ratio for row in chosen):.2f}",
            f"{sum(row.ratio <= 1 for row in chosen)}",
            f"{100 * statistics.mean(row.rival_overhead for row in chosen):.1f}",
            f"{100 * statistics.mean(row.our_overhead for row in chosen):.1f}",
            str(sum(row.rival_bits.wrong > 0 for row in chosen)),
            str(sum(not row.our_bits.same for row in chosen)),
            end_section=name == names[-1],
        )
    return table


def _cells(row: Row) -> list[str]:
    return [
        row.model,
        row.rival,
        f"{1e3 * row.eager_seconds:.0f}",
        f"{row.eager_peak / 1e6:.2f}",
        f"{row.rival_peak / 1e6:.2f}",
        f"{row.our_peak / 1e6:.2f}" + ("" if row.our_peak <= row.rival_peak else " OVER"),
        f"{100 * row.rival_overhead:.1f}",
        f"{100 * row.our_overhead:.1f}",
        f"{100 * row.planned:.1f}",
        f"{row.ratio:.2f}",
        str(row.rival_bits),
        str(row.our_bits),
    ]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny models and few rounds: seconds mean little")] = False,
    only: Annotated[str, typer.Option(help="models, separated by commas")] = "",
    rounds: Annotated[int, typer.Option(help="steps of each variant that are timed")] = 0,
    time_limit: Annotated[float, typer.Option(help="seconds for each solve")] = 0.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    titles = ("model", "rival", "eager ms", "eager MB", "theirs MB", "ours MB", "theirs +%", "ours +%", "planned +%")
    table = Table(*titles, "ours/theirs", "their bits", "our bits")
    everything: list[Row] = []
    failed: dict[str, str] = {}
    cases = QUICK_CASES if quick else CASES
    for name in only.split(",") if only else cases:
        bench = Bench(cases[name], torch.device("cpu"), time_limit or (1.0 if quick else 4.0))
        for row in rows(name, bench, budgets=QUICK_BUDGETS if quick else BUDGETS, rounds=rounds or (3 if quick else 7)):
            if not isinstance(row, Row):
                failed[f"{name}, {row[0]}"] = row[1]
                continue
            everything.append(row)
            table.add_row(*_cells(row))
            print(" | ".join(_cells(row)), file=sys.stderr, flush=True)
        table.add_section()
    console = Console(width=170)
    console.print(table)
    for which, error in failed.items():
        console.print(f"did not run: {which}: {error}", highlight=False, markup=False)
    console.print(summary(everything))
    if json_file is not None:
        document = {"failed": failed, "rows": [asdict(row) | {"ratio": row.ratio} for row in everything]}
        json_file.write_text(json.dumps(document, indent=1))
    if not all(row.kept for row in everything):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
