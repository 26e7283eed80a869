"""``plan solvers`` and ``plan devices``: what ``--solver`` and ``--device`` can name."""

from __future__ import annotations

from dataclasses import asdict

import torch
from rich.text import Text

from remat_planner.planner.cli.arguments import DevicesArguments, SolversArguments
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.formatting import format_bytes
from remat_planner.planner.reports import plain_table
from remat_planner.solvers import available
from remat_planner.tracer.costs import DEVICES, Link


def devices_command(result: SafeConsole, asked: DevicesArguments) -> None:
    """List the GPUs that `plan --device` knows, with what their data sheets say."""
    if asked.as_json:
        print_document(result, {name: asdict(device) for name, device in DEVICES.items()})
        return
    table = plain_table()
    for title in ("name", "memory", "bandwidth", "bfloat16", "float32", "link to the host"):
        left = title in ("name", "link to the host")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for name, device in DEVICES.items():
        rates = (f"{device.rate(dtype) / 1e12:,.0f} TFLOP/s" for dtype in (torch.bfloat16, torch.float32))
        memory, bandwidth = format_bytes(device.memory), f"{format_bytes(device.bandwidth)}/s"
        table.add_row(name, memory, bandwidth, *rates, _link(device.link))
    result.print(table)


def _link(link: Link | None) -> str:
    if link is None:
        return "none: shared memory"
    out, back = (f"{rate / 1e9:g}" for rate in (link.outgoing, link.incoming))
    return f"{link.name}, {f'{out} GB/s each way' if out == back else f'{out} GB/s out, {back} in'}"


def solvers_command(result: SafeConsole, asked: SolversArguments) -> None:
    """List the solvers that can run here."""
    if asked.as_json:
        print_document(result, available())
        return
    table = plain_table(header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, description in available().items():
        table.add_row(name, Text(description))
    result.print(table)
