"""A schedule as a memory snapshot, in the form of ``torch.cuda.memory._snapshot``, which pytorch.org/memory_viz opens.

Device 0 is the plan and device 1 the step without recomputation; regions have two devices for each of their schedules. The
stack of an allocation is the operator with its line, and the modules that it is in. An allocation gets the first gap that is
large enough in one segment; a real allocator places it elsewhere. Allocations have no category: the viewer fails on
categories unless one is "unknown".
"""

from __future__ import annotations

import bisect
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remat_planner.planner.reports.operator_names import action_names
from remat_planner.planner.reports.peak_memory import RANDOM_STATE, WORKSPACE, storage_kinds
from remat_planner.planner.reports.timeline import MemoryCurve
from remat_planner.schedules import Graph, Op, Transfer, lifetimes

_PROTOCOL = 4  # the newest that the viewer reads
_FIRST_ADDRESS = 1 << 21
_GRANULARITY = 512

Frames = list[dict[str, Any]]


def memory_snapshot(curves: Mapping[str, MemoryCurve]) -> bytes:
    """The snapshot of ``curves``, pickled."""
    devices = [
        _Device(number, executions.graph, executions.ops)
        for number, executions in enumerate(
            executions for curve in curves.values() for executions in (curve.planned, curve.unplanned)
        )
    ]
    for device in devices:
        device.run()
    snapshot = {
        "device_traces": [device.events for device in devices],
        "segments": [device.segment() for device in devices],
    }
    return pickle.dumps(snapshot, protocol=_PROTOCOL)


@dataclass
class _Gaps:
    """A segment that grows; a request gets the first gap that is large enough."""

    end: int = _FIRST_ADDRESS
    free: list[tuple[int, int]] = field(default_factory=list)  # (address, end) of each gap, in order, no two adjacent

    def take(self, size: int) -> int:
        """The address of ``size`` bytes."""
        for n, (address, end) in enumerate(self.free):
            if end - address >= size:
                self.free[n : n + 1] = [(address + size, end)] if end - address > size else []
                return address
        self.end += size
        return self.end - size

    def give_back(self, address: int, size: int) -> None:
        """Free ``size`` bytes at ``address``."""
        end = address + size
        n = bisect.bisect(self.free, (address, end))
        first = last = n
        if n and self.free[n - 1][1] == address:
            first, address = n - 1, self.free[n - 1][0]
        if n < len(self.free) and self.free[n][0] == end:
            last, end = n + 1, self.free[n][1]
        self.free[first:last] = [(address, end)]


@dataclass(frozen=True)
class _Block:
    address: int
    size: int
    frames: Frames


@dataclass
class _Device:
    """One sequence of op executions, as a device of the snapshot."""

    number: int
    graph: Graph
    steps: Sequence[int]
    events: list[dict[str, Any]] = field(default_factory=list)
    gaps: _Gaps = field(default_factory=_Gaps)
    blocks: dict[int, _Block] = field(default_factory=dict)  # what is allocated, by address

    def run(self) -> None:
        """Allocate the constants, and then what each execution allocates; free what it is the last to need.

        Results stay allocated after the step.
        """
        for kind, size in self.graph.constants.items():
            if size:
                self._place(size, [_frame(f"{kind} (resident throughout)")])
        kinds = storage_kinds(self.graph) | {-1: RANDOM_STATE}
        pieces = lifetimes(self.graph, self.steps)
        results = {self.graph.values[value].storage for value in self.graph.results}
        born, dying = defaultdict(list), defaultdict(list)
        columns = (pieces.storage.tolist(), pieces.bytes.tolist(), pieces.birth.tolist(), pieces.death.tolist())
        for piece, (storage, size, birth, death) in enumerate(zip(*columns, strict=True)):
            if size:
                born[birth].append((piece, size, kinds[storage]))
                if death + 1 < len(self.steps) or storage not in results:
                    dying[death].append(piece)
        placed: dict[int, _Block] = {}
        ran: set[int] = set()
        for step, i in enumerate(self.steps):
            action = self.graph.actions[i]
            for piece, size, kind in born[step]:
                placed[piece] = self._allocate(size, _stack(action, kind, again=i in ran))
            if action.workspace:
                self._free(self._allocate(action.workspace, _stack(action, WORKSPACE, again=i in ran)))
            if isinstance(action, Op):
                ran.add(i)
            for piece in dying[step]:
                self._free(placed.pop(piece))

    def segment(self) -> dict[str, Any]:
        """The one segment, with what is allocated after the step and the gaps between."""
        blocks: list[dict[str, Any]] = []
        address = _FIRST_ADDRESS
        for block in sorted(self.blocks.values(), key=lambda block: block.address):
            if block.address > address:
                blocks.append(_gap(address, block.address))
            blocks.append(
                {
                    "address": block.address,
                    "size": _rounded(block.size),
                    "requested_size": block.size,
                    "state": "active_allocated",
                    "frames": block.frames,
                }
            )
            address = block.address + _rounded(block.size)
        if self.gaps.end > address:
            blocks.append(_gap(address, self.gaps.end))
        allocated = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
        return {
            "device": self.number,
            "address": _FIRST_ADDRESS,
            "total_size": self.gaps.end - _FIRST_ADDRESS,
            "allocated_size": allocated,
            "active_size": allocated,
            "stream": 0,
            "segment_type": "large",
            "frames": [],
            "blocks": blocks,
        }

    def _place(self, size: int, frames: Frames) -> _Block:
        block = _Block(self.gaps.take(_rounded(size)), size, frames)
        self.blocks[block.address] = block
        return block

    def _allocate(self, size: int, frames: Frames) -> _Block:
        block = self._place(size, frames)
        self._note("alloc", block)
        return block

    def _free(self, block: _Block) -> None:
        for action in ("free_requested", "free_completed"):
            self._note(action, block)
        del self.blocks[block.address]
        self.gaps.give_back(block.address, _rounded(block.size))

    def _note(self, action: str, block: _Block) -> None:
        event = {"action": action, "addr": block.address, "size": block.size, "stream": 0, "frames": block.frames}
        self.events.append(event)


def _stack(action: Op | Transfer, kind: str, *, again: bool) -> Frames:
    """The operator at its line, then its module and the modules around it."""
    names = action_names(action)
    notes = ", ".join((names.phase, *(("recomputed",) if again else ()), kind))
    filename, _, line = names.line.rpartition(":")
    known = line.isdecimal()
    name = f"{names.operator} ({notes})"
    innermost = _frame(name, filename if known else names.line or "unknown line", int(line) if known else 0)
    parts = names.module.split(".") if names.module else []
    return [innermost, *(_frame(".".join(parts[:n])) for n in range(len(parts), 0, -1))]


def _frame(name: str, filename: str = "module", line: int = 0) -> dict[str, Any]:
    return {"name": name, "filename": filename, "line": line}


def _gap(address: int, end: int) -> dict[str, Any]:
    return {"address": address, "size": end - address, "requested_size": 0, "state": "inactive", "frames": []}


def _rounded(size: int) -> int:
    return -(-size // _GRANULARITY) * _GRANULARITY
