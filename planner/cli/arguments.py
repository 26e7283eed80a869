"""What each command takes: a class for each, from whose fields typer makes its arguments and options.

The docstring's first line is the command's help. The modules that do the work get an instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from remat_planner.planner.cli.options import (
    MEASURE,
    Accumulate,
    BudgetKind,
    Costs,
    Device,
    DiskBudget,
    DiskLink,
    GradientBuckets,
    GradientDtype,
    HostBudget,
    Json,
    Link,
    MasterWeights,
    ModelSpec,
    OptimizerName,
    OptimizerOffload,
    OrderKind,
    Outputs,
    Pools,
    Regions,
    ScheduleFile,
    Shard,
    Solver,
    VariantsKind,
    ZeroStage,
)


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """The fields of ``TrainingState``, as options."""

    gradient_dtype: GradientDtype = None
    master_weights: MasterWeights = False
    shard: Shard = 1
    zero_stage: ZeroStage = 3
    optimizer_offload: OptimizerOffload = False
    accumulate: Accumulate = False
    outputs: Outputs = "held"
    gradient_buckets: GradientBuckets = None

    def training_options(self) -> dict[str, Any]:
        """The values by their field of ``TrainingState``."""
        return {name: getattr(self, name) for name in TrainingArguments.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class CopiesArguments(TrainingArguments):
    """The fields of ``TrainingState``, and where activations may be copied to, as options."""

    offload: Pools = None
    host_budget: HostBudget = None
    disk_budget: DiskBudget = None
    link: Link = None
    disk_link: DiskLink = None


@dataclass(frozen=True, kw_only=True)
class PlanArguments(CopiesArguments):
    """Keep a model's training step within a number of bytes at the least extra time, and prove how near to the best that is."""

    model: ModelSpec
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            metavar="BYTES",
            help='peak of one training step: "40GB" (10^9), "512MiB" (2^20), "60%" of the peak without recomputation; '
            '"auto": the GPU\'s memory less a reserve; "min": the least for which a schedule is found',
            show_default=False,
        ),
    ]
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="the schedule file, or - for stdout; by default MODEL.schedule.json in this folder",
        ),
    ] = None
    solver: Solver = "auto"
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving")] = 60.0
    costs: Costs = MEASURE
    device: Device = None
    optimizer: OptimizerName = None
    budget_on: BudgetKind = "allocated"
    variants: VariantsKind = "exact"
    order: OrderKind = "given"
    regions: Regions = None
    shapes: Annotated[
        str | None,
        typer.Option(
            metavar="RANGES",
            help='plan for ranges of sizes, "batch=1..8,tokens=128..4096": each of all dimensions of the inputs that have its '
            "largest size (tokens@1=128..768: of dimensions 1 alone)",
            show_default=False,
        ),
    ] = None
    compiler: Annotated[
        Literal["inductor"] | None,
        typer.Option(help="compile within the budget by torch.compile in place of a schedule, and measure", show_default=False),
    ] = None
    whole: Annotated[
        bool, typer.Option("--whole", help="refuse a model that cannot be captured whole; else its blocks are planned then")
    ] = False
    verify_it: Annotated[  # the defaults of the command `verify` have its name
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="run the real steps: compare bits and measure the peak; by default wherever the plan's device is at hand",
            show_default=False,
        ),
    ] = None
    require_optimal: Annotated[
        bool, typer.Option("--require-optimal", help="exit with 5 unless the plan is proven optimal")
    ] = False
    as_json: Json = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print one line, and no progress")] = False


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """Run a schedule's real training step beside eager's: compare every bit and measure the peak."""

    schedule: ScheduleFile
    model: ModelSpec
    disk_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where the copies of a schedule with --offload disk go", show_default=False),
    ] = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """Print the report of a schedule file again."""

    schedule: ScheduleFile
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class ExplainArguments:
    """Say what a module holds at the peak and what recomputing it costs and saves, and of its activations who reads them."""

    schedule: ScheduleFile
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="a module, or part of an op's name, module, operator or source line")
    ]
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write a report on a schedule file as one page, or for Perfetto, pytorch.org/memory_viz or a spreadsheet."""

    schedule: ScheduleFile
    to: Annotated[
        Literal["html", "perfetto", "memory-viz", "csv"],
        typer.Option("--to", help="a page for a browser, a trace, a memory snapshot, or a line for each op execution"),
    ] = "html"
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="the file to write; by default named like the schedule"),
    ] = None
    curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw this curve into the page; `plan curve --json` wrote it", show_default=False),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Print a schedule in the form that another trainer takes; exits with 3 where that form cannot meet the budget."""

    schedule: ScheduleFile
    model: ModelSpec
    to: Annotated[
        Literal["sac", "modules", "transformers", "megatron"],
        typer.Option(
            "--to",
            help="a policy for selective checkpointing, modules to wrap, every n layers, or --recompute-* options",
            show_default=False,
        ),
    ]
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class CurveArguments(CopiesArguments):
    """Show what each budget costs in time, from the least one that works to the peak without recomputation."""

    model: ModelSpec
    points: Annotated[int, typer.Option(metavar="N", min=2, help="budgets, at equal distances")] = 12
    device: Device = None
    costs: Costs = MEASURE
    solver: Solver = "auto"
    optimizer: OptimizerName = None
    budget_on: BudgetKind = "allocated"
    variants: VariantsKind = "exact"
    order: OrderKind = "given"
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving, each budget")] = 20.0
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it into this file", show_default=False)] = None
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it into this file", show_default=False)] = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class FitArguments(CopiesArguments):
    """Find the largest batch whose training step fits a budget; the batch is the first dimension of the inputs."""

    model: ModelSpec
    budget: Annotated[
        str, typer.Option("--budget", "-b", metavar="BYTES", help='"40GB", "512MiB", or "auto" on a GPU', show_default=False)
    ]
    device: Device = None
    costs: Costs = MEASURE
    solver: Solver = "auto"
    optimizer: OptimizerName = None
    budget_on: BudgetKind = "allocated"
    variants: VariantsKind = "exact"
    order: OrderKind = "given"
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="time for solving, each batch")] = 20.0
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class MemoryArguments:
    """Show what a step takes in float32 and bfloat16, with master weights, ZeRO, accumulation, the optimizer on the host."""

    model: ModelSpec
    device: Device = None
    costs: Costs = MEASURE
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="the optimizer, as in `plan --optimizer`")] = "adamw"
    shard: Annotated[int, typer.Option(metavar="N", help="over how many ranks the stages of ZeRO divide")] = 8
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """Measure a model's operators on the device that it is on, for `plan --costs FILE` on another machine."""

    model: ModelSpec
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the profile file; it ends in .json")] = Path(
        "profile.json"
    )


@dataclass(frozen=True, kw_only=True)
class SolversArguments:
    """List the solvers that can run here."""

    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class DevicesArguments:
    """List the GPUs that `plan --device` knows, with what their data sheets say."""

    as_json: Json = False
