"""``plan memory``: what a training step takes in the usual combinations of precision, shards and where the optimizer is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from remat_planner.planner.cli.arguments import MemoryArguments
from remat_planner.planner.cli.checks import costs_for
from remat_planner.planner.cli.interruptible import interruptibly
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.memory_table import MemoryRow, MemoryTable, memory_table
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.reports import plain_table

_COLUMNS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "master weights": "master_weights",
    "optimizer": "optimizer",
    "gathered": "gathered",
    "activations": "activations",
    "step peak": "peak",
    "frees": "frees",
}
_NOTE = (
    "Nothing is recomputed. Gradients when the backward is over, activations at the peak, which also has inputs, buffers, "
    "outputs and temporaries; frees against the first row."
)


def memory_command(result: SafeConsole, asked: MemoryArguments) -> None:
    """Show what a step takes in float32 and bfloat16, with master weights, ZeRO, accumulation, the optimizer on the host."""
    costs = costs_for(asked.device, asked.costs)
    with Stages(quiet=False) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model, asked.device)
        table = interruptibly(
            lambda: memory_table(
                loaded.model,
                loaded.args,
                loaded.kwargs,
                loss=loaded.loss,
                costs=costs,
                optimizer=asked.optimizer,
                ranks=asked.shard,
                trying=lambda dtype: stages.stage(f"Capturing the training step in {dtype}"),
            )
        )
    if asked.as_json:
        print_document(result, _document(table))
        return
    result.print(_table(table.rows))
    result.print(Text(f"\n{_NOTE}", style="dim"))
    for name, reason in table.left_out.items():
        result.print(Text(f"left out: {name} ({reason})", style="dim"))


def _table(rows: tuple[MemoryRow, ...]) -> Table:
    table = plain_table()
    table.add_column("trained in", overflow="fold", min_width=16)
    shown = {title: name for title, name in _COLUMNS.items() if any(getattr(row, name) for row in rows)}
    for title in shown:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row.combination.name, *(format_bytes(getattr(row, name)) for name in shown.values()))
    return table


def _document(table: MemoryTable) -> dict[str, Any]:
    return {"combinations": [_row_document(row) for row in table.rows], "left_out": dict(table.left_out)}


def _row_document(row: MemoryRow) -> dict[str, Any]:
    sizes = {f"{name}_bytes": size for name, size in asdict(row).items() if name != "combination"}
    dtype = str(row.combination.dtype).removeprefix("torch.")
    return {"name": row.combination.name, "dtype": dtype, "options": dict(row.combination.options), **sizes}
