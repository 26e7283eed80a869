"""The solvers' figures: published graphs, chains with known optima, captured training steps, and all methods side by side.

    python benchmarks/solvers.py [--quick] [--only published,chains,captured,methods,offload] [--seconds 60] [--json FILE]

Published graphs are read from ``../shared/instances`` beside the checkout and left out where they are not there. Overheads and
gaps are percent of the step's time without recomputation; every schedule is judged by ``schedules.simulate``. Exits with 1
where a goal is missed, except with ``--quick``, whose time limits are too short for the goals.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.captured import MODELS, MORE_MODELS, Model, trace_model
from remat_planner.schedules import Channel, Graph, Pool, simulate
from remat_planner.solvers import available, solve
from remat_planner.solvers.interface import Solution

INSTANCES = Path(__file__).resolve().parents[2] / "shared" / "instances"

# Instance, share of its peak, overhead at most (%), gap at most (%; 0: proven optimal), seconds at most.
PUBLISHED = (
    ("checkmate_fcn8", 0.9, 0.0294, 0.0, 1),
    ("checkmate_fcn8", 0.8, 0.1362, 0.0, 1),
    ("checkmate_resnet50", 0.9, 0.1085, 0.0, 2),
    ("checkmate_resnet50", 0.8, 0.2786, 0.0, 2),
    ("checkmate_resnet50", 0.5, 1.4988, 0.0, 2),
    ("checkmate_resnet50", 0.3, 3.656, 0.05, 30),
    ("checkmate_vgg16", 0.95, 0.7742, 0.0, 10),
    ("checkmate_vgg16", 0.9, 1.9678, 0.0, 10),
    ("checkmate_vgg16", 0.85, 1.9678, 0.0, 10),
    ("checkmate_unet", 0.9, 1.1289, 0.0, 10),
    ("checkmate_unet", 0.8, 1.9836, 0.0, 10),
    ("checkmate_unet", 0.7, 2.9673, 0.0, 10),
    ("checkmate_unet", 0.6, 4.4509, 0.0, 10),
    ("checkmate_unet", 0.5, 6.967, 0.0, 10),
    ("checkmate_unet", 0.45, 9.322, 0.0, 10),
    ("rlg1_n100", 0.9, 0.7892, 0.0, 10),
    ("rlg1_n100", 0.8, 2.2965, 0.0, 10),
    ("rlg2_n250", 0.9, 0.904, 0.0, 10),
    ("rlg2_n250", 0.8, 4.261, 0.5, 60),
    ("rlg3_n500", 0.9, 0.702, 0.01, 30),
    ("rlg3_n500", 0.8, 3.26, 1.0, 60),
    ("rlg4_n1000", 0.9, 0.697, 0.1, 60),
    ("rlg4_n1000", 0.8, 2.69, 0.9, 60),
)
# Columns that a table needs; narrower terminals wrap its lines.
_WIDTH = 150
# Goals are given with this many digits.
_DIGITS = 5e-5

# Budgets of the comparison of methods: shares of the peak between what is there all the time and all that a step takes.
METHODS_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# Shares of the peak, and GB/s each way, of the tables with copies on the host.
OFFLOAD_SHARES, OFFLOAD_RATE = (0.5, 0.3), 50
OFFLOAD_METHODS = ("offload-all", "offload-inputs", "offload-greedy", "pofo", "auto")
METHODS = ("every-n", "chen", "knapsack", "greedy", "rotor", "twolevel", "anneal", "ilp", "auto")


@dataclass(frozen=True)
class Row:
    """One question and its answer; percent of the step's time, None where there is no schedule.

    ``asked`` is the solver that was asked, ``solver`` the one that found the answer.
    """

    table: str
    graph: str
    ops: int
    budget: str
    asked: str
    solver: str
    status: str
    overhead: float | None
    bound: float | None
    gap: float | None
    seconds: float
    goal: str
    met: bool


def row(
    table: str,
    name: str,
    graph: Graph,
    budget: str,
    solution: Solution,
    *,
    asked: str = "auto",
    goal: str = "",
    met: bool = True,
) -> Row:
    """A table's row for an answer."""
    found = solution.status != "infeasible"
    return Row(
        table=table,
        graph=name,
        ops=len(graph.ops),
        budget=budget,
        asked=asked,
        solver=solution.solver,
        status=solution.status,
        overhead=100 * (solution.cost / graph.seconds - 1) if found else None,
        bound=100 * (solution.bound / graph.seconds - 1) if math.isfinite(solution.bound) else None,
        gap=100 * solution.gap if found else None,
        seconds=solution.seconds,
        goal=goal,
        met=met,
    )


def published(limit: float, *, quick: bool) -> Iterator[Row]:
    """The graphs of the field, against the best figures known."""
    for name, share, overhead, gap, seconds in PUBLISHED:
        path = INSTANCES / f"{name}.json"
        if not path.exists() or (quick and name.startswith(("rlg3", "rlg4"))):
            continue
        graph, peak = read_instance(path)
        solution = solve(graph, math.ceil(share * peak), time_limit=min(limit, 0.9 * seconds))
        met = (
            solution.status != "infeasible"
            and 100 * (solution.cost / graph.seconds - 1) <= overhead + _DIGITS
            and (solution.status == "optimal" or 100 * solution.gap <= gap)
            and solution.seconds <= seconds
        )
        proof = "optimal" if gap == 0 else f"gap {gap}"
        yield row("published", name, graph, f"{share:g}", solution, goal=f"{overhead} %, {proof}, {seconds} s", met=met)


def chains(limit: float, *, quick: bool) -> Iterator[Row]:
    """Unit chains, whose optima are known: Checkmate's linear graphs by every exact method."""
    for name in ("unit_linear_5", "unit_linear_6"):
        path = INSTANCES / f"{name}.json"
        if not path.exists():
            continue
        graph, _ = read_instance(path)
        for reference in json.loads(path.read_text())["references"][: 2 if quick else None]:
            optimum = reference["cost"]
            for solver in ("ilp", "checkmate", "auto"):
                solution = solve(graph, reference["budget"], solver=solver, time_limit=min(limit, 10.0))
                met = abs(solution.cost - optimum) < 1e-9
                yield row(
                    "chains",
                    name,
                    graph,
                    f"{reference['budget']} slots",
                    solution,
                    asked=solver,
                    goal=f"cost {optimum}",
                    met=met,
                )


def captured(limit: float, *, quick: bool) -> Iterator[Row]:
    """Training steps of real models, captured on fake tensors with the costs of an H100."""
    for model, graph in captured_graphs(quick=quick):
        peak = simulate(graph, range(len(graph.ops))).peak_bytes
        for share in (0.6, 0.4) if quick else model.shares:
            solution = solve(graph, int(share * peak), time_limit=limit)
            proven_impossible = solution.status == "infeasible" and solution.bound == math.inf
            met = proven_impossible or (solution.status != "infeasible" and 100 * solution.gap <= model.gap)
            yield row("captured", model.name, graph, f"{share:g}", solution, goal=f"gap {model.gap}", met=met)


def methods(limit: float, *, quick: bool) -> Iterator[Row]:
    """Every method at equal budgets on the captured steps: is an exact method better than a greedy one, and by how much?"""
    installed = available()
    for model, graph in captured_graphs(quick=quick, whole=True):
        peak = simulate(graph, range(len(graph.ops))).peak_bytes
        for share in (0.6,) if quick else METHODS_SHARES:
            for solver in METHODS:
                if solver in installed:
                    solution = solve(graph, int(share * peak), solver=solver, time_limit=limit)
                    yield row("methods", model.name, graph, f"{share:g}", solution, asked=solver)


def offload(limit: float, *, quick: bool) -> Iterator[Row]:
    """The captured steps with copies on the host at 50 GB/s each way, beside the same without copies; no policy is better."""
    channel = Channel(1e9 * OFFLOAD_RATE)
    more = () if quick else MORE_MODELS
    for model, graph in chain(captured_graphs(quick=quick), ((model, trace_model(model)) for model in more)):
        peak = simulate(graph, range(len(graph.ops))).peak_bytes
        linked = graph.with_transfers([Pool("host", 10**12, channel, channel)])
        for share in OFFLOAD_SHARES:
            best = math.inf
            yield row("offload", model.name, graph, f"{share:g}", solve(graph, int(share * peak), time_limit=limit))
            for solver in OFFLOAD_METHODS:
                solution = solve(linked, int(share * peak), solver=solver, time_limit=limit)
                best = min(best, solution.cost)
                met = solver != "auto" or solution.cost <= best
                goal = "the best" if solver == "auto" else ""
                yield row("offload", model.name, graph, f"{share:g}", solution, asked=f"{solver}, copies", goal=goal, met=met)


def captured_graphs(*, quick: bool, whole: bool = False) -> Iterator[tuple[Model, Graph]]:
    """The models of ``benchmarks/captured.py``, one after the other; if ``whole`` only those that one GPU holds."""
    for model in MODELS[:1] if quick else MODELS:
        if not whole or model.shard == 1:
            yield model, trace_model(model)


def read_instance(path: Path) -> tuple[Graph, int]:
    """A graph of the field and its peak without recomputation."""
    data = json.loads(path.read_text())
    nodes = data["nodes"]
    graph = Graph.from_dag([v["cost"] for v in nodes], [v["mem"] for v in nodes], data["edges"], [v["bwd"] for v in nodes])
    return graph, data["peak_no_remat"]


TABLES: dict[str, Callable[..., Iterator[Row]]] = {
    "published": published,
    "chains": chains,
    "captured": captured,
    "methods": methods,
    "offload": offload,
}


def print_table(console: Console, name: str, rows: list[Row]) -> None:
    """One table on the terminal."""
    table = Table(title=f"{name}: {TABLES[name].__doc__}", title_justify="left")
    for heading in (
        "graph",
        "ops",
        "budget",
        "asked",
        "found by",
        "overhead %",
        "bound %",
        "gap %",
        "status",
        "seconds",
        "goal",
        "",
    ):
        justify: Literal["left", "right"] = "left" if heading in ("graph", "asked", "found by", "status", "goal") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for r in rows:
        figures = ["-" if x is None else f"{x:.4f}" for x in (r.overhead, r.bound, r.gap)]
        mark = "" if not r.goal else ("ok" if r.met else "[red]MISSED[/red]")
        table.add_row(r.graph, f"{r.ops:,}", r.budget, r.asked, r.solver, *figures, r.status, f"{r.seconds:.2f}", r.goal, mark)
    console.print(table)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="small graphs and five seconds each: does it all still run?")] = False,
    only: Annotated[str, typer.Option(help=f"tables, by commas, out of {', '.join(TABLES)}")] = ",".join(TABLES),
    seconds: Annotated[float, typer.Option(help="time limit of one solve; a goal's own limit holds where it is lower")] = 54.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write all rows here too")] = None,
) -> None:
    """Print the tables."""
    chosen = only.split(",")
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose among {', '.join(TABLES)}", param_hint="--only")
    console, log = Console(), Console(stderr=True)
    console.width = max(console.width, _WIDTH)
    rows: list[Row] = []
    for name in chosen:
        found: list[Row] = []
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=log, transient=True
        ) as bar:
            task = bar.add_task(name)
            for r in TABLES[name](min(seconds, 5.0) if quick else seconds, quick=quick):
                found.append(r)
                bar.update(task, description=f"{name}: {r.graph} {r.budget} {r.asked}")
        print_table(console, name, found)
        rows += found
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    missed = sum(not r.met for r in rows)
    console.print(f"{len(rows)} answers, {missed} goals missed")
    if missed and not quick:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
