"""The kernels that inductor makes of a sequence of operators, and which of their results take memory.

The rules follow inductor's lowering and scheduler (``torch/_inductor/lowering.py``, ``ir.py``, ``scheduler.py``) in short:

- An elementwise value is computed inside each of its readers, unless it is *realized*: a kernel of its own reads it, it is
  returned, or it has several readers and is made of much. Reductions, kernels of their own and random numbers are always
  realized.
- A realized value joins the loop of a value that it reads, or shares a read with, where both loops have the same iterations and
  everything else that it reads comes from no later kernel.
- A realized value that only its own kernel reads takes no memory.

Sets of values are integers, one bit for each value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from remat_planner.tracer.fusion.values import Value

_MOST_READS, _MOST_OPERATORS = 4, 30  # inductor's realize_reads_threshold, realize_opcount_threshold
# A reused result of these is realized on a CPU: heavy_ops of StorageBox.should_realize_on_reuse.
_HEAVY_ON_CPU = {f"aten.{name}.default" for name in ("exp", "log", "log10", "log1p", "log2", "sigmoid", "tanh")}
_RANDOM = "prims.inductor_random.default"


@dataclass(slots=True)
class Kernel:
    """A fused loop, or an operator that runs by itself.

    Attributes:
        reads: values from memory, as a set.
        writes: values that take memory, as a set.
        computes: all values whose arithmetic it does, as a set.
        alone: whether it runs by itself: its results cannot take the place of what it reads.
        members: the realized values that it computes.
        read_by: for each member what it reads, as a set.
    """

    alone: bool
    elements: int = 0
    rows: int = 0
    reads: int = 0
    writes: int = 0
    computes: int = 0
    members: list[int] = field(default_factory=list)
    read_by: dict[int, int] = field(default_factory=dict)

    def read_by_one(self, member: int) -> int:
        """What ``member`` reads and no other member does, as a set."""
        others = 0
        for other, reads in self.read_by.items():
            if other != member:
                others |= reads
        return self.read_by[member] & ~others


@lru_cache(maxsize=1 << 15)  # most kernels are the same in most of the sets that a search judges
def bits(of: int) -> tuple[int, ...]:
    """The values of a set, in order."""
    found = []
    while of:
        low = of & -of
        found.append(low.bit_length() - 1)
        of ^= low
    return tuple(found)


def kernels_of(values: Sequence[Value], sequence: Sequence[int], returned: int, *, cpu: bool) -> list[Kernel]:
    """The kernels that run ``sequence``, in order; ``returned`` is the set of values that must be in memory at the end."""
    inside = 0
    for v in sequence:
        inside |= 1 << v
    readers: dict[int, int] = dict.fromkeys(sequence, 0)
    outside_loops = 0
    for v in sequence:
        value = values[v]
        for argument in value.reads:
            if argument in readers:
                readers[argument] += 1
                if value.kind in ("kernel", "loop"):
                    outside_loops |= 1 << argument
    reads, computes, realized = _inlined(values, sequence, inside, readers, returned | outside_loops, cpu=cpu)
    kernels: list[Kernel] = []
    kernel_of: dict[int, int] = {}
    last_reading: dict[int, list[int]] = {}
    for v in sequence:
        if not realized >> v & 1:
            continue
        value = values[v]
        if value.kind == "part":
            k = kernel_of[value.reads[0]]
        else:
            k = _joined(value, reads[v], kernels, kernel_of, last_reading)
            if k < 0:
                k = len(kernels)
                kernels.append(Kernel(alone=value.kind in ("kernel", "loop"), elements=value.elements, rows=value.rows))
        kernel = kernels[k]
        kernel_of[v] = k
        kernel.members.append(v)
        kernel.read_by[v] = reads[v]
        kernel.rows = kernel.rows or value.rows
        new = reads[v] & ~kernel.reads
        kernel.reads |= new
        kernel.computes |= computes[v] | 1 << v
        for r in bits(new):
            last_reading.setdefault(r, []).append(k)
    _settle(kernels, returned)
    return kernels


def _inlined(
    values: Sequence[Value], sequence: Sequence[int], inside: int, readers: dict[int, int], kept: int, *, cpu: bool
) -> tuple[dict[int, int], dict[int, int], int]:
    """For each value what its loop reads from memory and what it computes on the way, and which values are realized."""
    reads: dict[int, int] = {}
    computes: dict[int, int] = {}
    heavy = 0
    realized = 0
    for v in sequence:
        value = values[v]
        read = computed = 0
        for argument in value.reads:
            bit = 1 << argument
            if not inside & bit or realized & bit:
                read |= bit
            else:
                read |= reads[argument]
                computed |= computes[argument] | bit
        reads[v], computes[v] = read, computed
        if value.operator in _HEAVY_ON_CPU or computed & heavy:
            heavy |= 1 << v
        if (
            value.kind != "pointwise"
            or value.operator == _RANDOM
            or kept >> v & 1
            or (
                readers[v] > 1
                and (read.bit_count() > _MOST_READS or computed.bit_count() >= _MOST_OPERATORS or (cpu and heavy >> v & 1))
            )
        ):
            realized |= 1 << v
    return reads, computes, realized


def _joined(
    value: Value, reads: int, kernels: list[Kernel], kernel_of: dict[int, int], last_reading: dict[int, list[int]]
) -> int:
    """The kernel whose loop computes ``value`` too, or -1."""
    if value.kind in ("kernel", "loop"):
        return -1
    latest = -1
    candidates = []
    for r in bits(reads):
        k = kernel_of.get(r, -1)
        latest = max(latest, k)
        candidates.append(k)
        candidates += last_reading.get(r, ())
    for k in sorted(set(candidates), reverse=True):
        if k < latest or k < 0:
            break
        if _same_loop(kernels[k], value):
            return k
    return -1


def _same_loop(kernel: Kernel, value: Value) -> bool:
    if kernel.alone:
        return False
    if kernel.elements == value.elements:
        return not (kernel.rows and value.rows) or kernel.rows == value.rows
    return value.kind == "pointwise" and bool(kernel.rows) and value.elements == kernel.rows


def _settle(kernels: list[Kernel], returned: int) -> None:
    """Leave in ``reads`` what comes from elsewhere, and in ``writes`` what another kernel or the caller reads."""
    read_later = 0
    for kernel in reversed(kernels):
        members = 0
        for v in kernel.members:
            members |= 1 << v
        kernel.writes = members & (read_later | returned)
        if kernel.alone:
            kernel.writes = members
        kernel.reads &= ~members
        read_later |= kernel.reads
