"""The headline: a 7B decoder whose activations take 120 GB, trained within 35 GB of them; planned on paper, no GPU.

    python -m benchmarks.headline [--devices a100-80gb,h100,h200] [--json FILE] [--large] [--offload]

Llama-7B in bfloat16 on 2 x 9,792 tokens (120 GB of activations) within 35 GB, and on 2 x 6,528 (80 GB) within 40 GB, beside
the settings that people make by hand. Bytes are those at the peak, less what is there all the time (parameters and inputs);
gradients that have been computed count, so the budget is a little tighter than activations alone. The caller drops the logits.
A second plan may round otherwise than eager (``variants="any"``). Seconds are a roofline of the device. ``--large`` plans a 70B
decoder (80 layers, 8,192 tokens) as well, its parameters and gradients in shards over 64 GPUs: whole, its gradients alone would
take more than the budget. ``--offload`` plans with copies on the host instead, at the rates of several links, beside the
policies that people use to offload. Times are from the build of the model to the written file (to the schedule, with copies),
with the resident set at its highest by then, each plan in a process of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from remat_planner.planner.model_loading import built_without_memory
from remat_planner.planner.planning import Settings, Step, schedule_step, trace_step
from remat_planner.schedules import Channel, Graph, Pool, TrainingState, Variants, simulate
from remat_planner.solvers import solve
from remat_planner.solvers.chain import Forward, just_in_time, kept_by_segments, module_segments
from remat_planner.solvers.problem import Problem

GB = 10**9
_MATMULS = ("mm", "addmm", "bmm")
_ATTENTION = "scaled_dot_product"


@dataclass(frozen=True)
class Case:
    """A decoder, its inputs, the bytes that its activations may take at the peak, and the GPUs that share its parameters."""

    name: str
    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    batch: int
    tokens: int
    activations: float
    shard: int = 1

    def build(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The model and its inputs; to be called where tensors take no memory."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            max_position_embeddings=self.tokens,
            use_cache=False,
        )
        tokens = torch.zeros(self.batch, self.tokens, dtype=torch.long)
        return LossOnly(LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)).train(), (tokens,)


class LossOnly(nn.Module):
    """A language model that hands out its loss and drops its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> Any:
        """The loss of predicting ``tokens``, int64[batch, tokens]."""
        return self.model(input_ids=tokens, labels=tokens).loss


SEVEN = (32, 4096, 11008, 32, 32)
CASES = (
    Case("7B, 35 of 120 GB", *SEVEN, 2, 9792, 35 * GB),
    Case("7B, 40 of 80 GB", *SEVEN, 2, 6528, 40 * GB),
)
LOW = Case("7B, 20 of 120 GB", *SEVEN, 2, 9792, 20 * GB)
LARGE = Case("70B, 76.5 of 262 GB", 80, 8192, 28672, 64, 8, 1, 8192, 76.5 * GB, shard=64)


@dataclass(frozen=True)
class Linked:
    """A case with a link to the host: GB/s out and in, and the overhead aimed at, as a fraction of the step."""

    case: Case
    device: str
    outgoing: float
    incoming: float
    goal: float

    @property
    def pool(self) -> Pool:
        """Host memory behind the link, as much as the copies ask for."""
        return Pool("host", 1000 * GB, Channel(self.outgoing * GB), Channel(self.incoming * GB), block=4096)


LINKED = (
    Linked(CASES[0], "h100", 50, 50, 0.05),
    Linked(CASES[0], "a100-80gb", 24, 24, 0.025),
    Linked(CASES[0], "h200", 50, 50, 0.043),
    Linked(CASES[1], "h100", 50, 50, 0.025),
    Linked(LOW, "h100", 50, 50, 0.1),
    Linked(CASES[0], "h100", 170, 411, 0.003),  # the link of a GH200
)
OFFLOADING = ("offload-greedy", "offload-inputs", "offload-all")


@dataclass(frozen=True)
class Row:
    """One way to run one case: bytes above the constants at the peak, and extra time as a fraction of the step."""

    case: str
    device: str
    policy: str
    peak_bytes: int
    overhead: float
    bound: float | None = None
    status: str = ""
    seconds_to_plan: float | None = None
    resident_bytes: int | None = None
    host_bytes: int | None = None


def rows(case: Case, device: str, time_limit: float) -> list[Row]:
    """The plan, that whose bits may differ, then the baselines; plans in processes of their own: nothing found before helps."""
    found: list[Row] = []
    variants: tuple[Variants, ...] = ("exact", "any")
    for kind in variants:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found += process.submit(_rows, case, device, time_limit, kind).result()
    return found


def _rows(case: Case, device: str, time_limit: float, variants: Variants) -> list[Row]:
    began = time.perf_counter()
    step = traced(case, device, time_limit, variants)
    graph = step.graph
    schedule = schedule_step(step, graph.constant_bytes + int(case.activations))
    with tempfile.TemporaryDirectory() as folder:
        schedule.save(Path(folder) / "headline.schedule.json")
    took = time.perf_counter() - began
    plan = Row(
        case.name,
        device,
        f"this plan ({schedule.solver})" if variants == "exact" else ", ".join(("bits may differ", *schedule.graph.inexact)),
        schedule.peak_bytes - graph.constant_bytes,
        schedule.overhead,
        schedule.bound_overhead,
        schedule.status,
        took,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    if variants == "any":
        return [plan]
    by_hand = []
    for policy, steps in baselines(graph):
        run = simulate(graph, steps)
        by_hand.append(Row(case.name, device, policy, run.peak_bytes - graph.constant_bytes, run.seconds / graph.seconds - 1))
    return [plan, *by_hand]


def linked_rows(linked: Linked, time_limit: float) -> list[Row]:
    """The plan with copies, then the policies that copy; in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_linked_rows, linked, time_limit).result()


def _linked_rows(linked: Linked, time_limit: float) -> list[Row]:
    began = time.perf_counter()
    step = traced(linked.case, linked.device, time_limit, pools=(linked.pool,))
    graph, device = step.graph, f"{linked.device}, {linked.outgoing:g} / {linked.incoming:g} GB/s"
    budget = graph.constant_bytes + int(linked.case.activations)
    schedule = schedule_step(step, budget)
    plan = Row(
        linked.case.name,
        device,
        f"this plan (goal {100 * linked.goal:g} %)",
        schedule.peak_bytes - graph.constant_bytes,
        schedule.overhead,
        schedule.bound_overhead,
        schedule.status,
        time.perf_counter() - began,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        schedule.pool_peak_bytes.get("host", 0),
    )
    policies = []
    for solver in OFFLOADING:
        solution = solve(graph, budget, solver=solver, time_limit=time_limit)
        run = simulate(graph, solution.steps or solution.minimum_steps)
        row = Row(linked.case.name, device, solver, run.peak_bytes - graph.constant_bytes, run.seconds / graph.seconds - 1)
        policies.append(replace(row, status=solution.status, host_bytes=run.pool_peaks.get("host", 0)))
    return [plan, *policies]


def traced(case: Case, device: str, time_limit: float, variants: Variants = "exact", pools: tuple[Pool, ...] = ()) -> Step:
    """The training step of ``case`` with the roofline of ``device``, which may copy to ``pools``."""
    with built_without_memory():
        model, inputs = case.build()
    training = TrainingState(shard=case.shard)
    settings = Settings(costs=device, time_limit=time_limit, training=training, variants=variants, pools=pools)
    return trace_step(model, inputs, settings=settings)


def baselines(graph: Graph) -> Iterator[tuple[str, Collection[int]]]:
    """What is set by hand today, each as steps of ``graph``; none of them recomputes what the backward does not ask for."""
    yield "keep everything", range(len(graph.ops))
    problem = Problem.of(graph)
    forward = Forward(problem)
    begins, is_block = module_segments(forward)[0]
    first = is_block.index(True)
    last = len(begins) - is_block[::-1].index(True)
    outside = {number for number, block in enumerate(is_block) if not block}
    per_layer = kept_by_segments(forward, begins, outside)

    def steps(kept: set[int]) -> Collection[int]:
        return problem.expand(just_in_time(forward, kept))

    yield "every layer", steps(per_layer)
    groups = [*begins[:first], *begins[first:last:8], *begins[last:]]
    eights = len(begins[first:last:8])
    heads_and_tails = {*range(first), *range(first + eights, len(groups))}
    yield "every 8 layers", steps(kept_by_segments(forward, groups, heads_and_tails))
    yield "every 8, last not", steps(kept_by_segments(forward, groups, heads_and_tails | {first + eights - 1}))
    kinds = [graph.ops[int(problem.ops[node])].kind for node in range(forward.start)]
    attention = [node for node, kind in enumerate(kinds) if _ATTENTION in kind]
    matmuls = [node for node, kind in enumerate(kinds) if kind in _MATMULS]
    for name, chosen in (("all matmuls", matmuls), ("every 2nd matmul", matmuls[::2]), ("no matmul", [])):
        saved = {item for node in (*attention, *chosen) for item in problem.writes[node]}
        yield f"selective: attention, {name}", steps(per_layer | saved)


def main(
    devices: Annotated[str, typer.Option(help="names out of `plan devices`, separated by commas")] = "a100-80gb,h100,h200",
    time_limit: Annotated[float, typer.Option(help="seconds for each solve")] = 60.0,
    large: Annotated[bool, typer.Option("--large", help="plan the 70B decoder too")] = False,
    offload: Annotated[bool, typer.Option("--offload", help="plan with copies on the host")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table; see the top of the file."""
    found: list[Row] = []
    table = Table(
        "case", "device", "policy", "peak GB", "time +%", "bound +%", "status", "planned in s", "resident GB", "host GB"
    )
    cases = (*CASES, *((LARGE,) if large else ()))
    if offload:
        groups = (linked_rows(linked, time_limit) for linked in LINKED)
    else:
        groups = (rows(case, device, time_limit) for case in cases for device in devices.split(","))
    for row in chain.from_iterable(groups):
        found.append(row)
        cells = [
            row.case,
            row.device,
            row.policy,
            f"{row.peak_bytes / GB:.2f}",
            f"{100 * row.overhead:.2f}",
            "" if row.bound is None else f"{100 * row.bound:.2f}",
            row.status,
            "" if row.seconds_to_plan is None else f"{row.seconds_to_plan:.1f}",
            "" if row.resident_bytes is None else f"{row.resident_bytes / GB:.2f}",
            "" if row.host_bytes is None else f"{row.host_bytes / GB:.2f}",
        ]
        table.add_row(*cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    typer.run(main)
