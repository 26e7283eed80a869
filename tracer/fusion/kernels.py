"""The kernels that inductor makes of a sequence of operators, and which of their results take memory.

The rules follow inductor's lowering and scheduler (``torch/_inductor/lowering.py``, ``ir.py``, ``scheduler.py``) in short:

- An elementwise value is computed inside each of its readers, unless it is *realized*: a kernel of its own reads it, it is
  returned, it is made of much, or it has several readers and is made of more than a little. What is read in several parts
  counts once for each. Reductions, kernels of their own and random numbers are always realized.
- A realized value joins the loop of a value that it reads, or shares a read with, where both loops have the same iterations and
  nothing else that it reads waits for that loop. What waits for it may wait longer then.
- On a CPU a reduction down the rows of a matrix joins no loop but that of another one: the loops run in another order.
- A realized value that only its own kernel reads takes no memory. On a CPU a reduction does: its readers have loops after it.
- On a CPU a ``cat`` is realized. What nothing else reads is computed into its memory, the rest is copied.

Sets of values are integers, one bit for each value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from remat_planner.tracer.fusion.values import Value

_MOST_READS = 4  # inductor's realize_reads_threshold, for what has several readers
_MOST_READS_OF_ALL, _MOST_READS_ON_CPU = 8, 12  # realize_acc_reads_threshold, realize_cpu_acc_reads_threshold
_MOST_OPERATORS, _MOST_OPERATORS_ON_CPU = 30, 50  # realize_opcount_threshold, realize_cpu_opcount_threshold
# A reused result of these is realized on a CPU: heavy_ops of StorageBox.should_realize_on_reuse.
_HEAVY_ON_CPU = {f"aten.{name}.default" for name in ("exp", "log", "log10", "log1p", "log2", "sigmoid", "tanh")}
_RANDOM = "prims.inductor_random.default"
_FAR = 64  # inductor fuses no kernels that are further apart (``are_long_distant_nodes``)
_WHOLE = (0,)
_PRODUCT = "aten.bmm.default"
_CAT = "aten.cat.default"
# A reader that has more elements than what it reads, and yet does not read it over and over.
_LARGER = {_CAT, "aten.constant_pad_nd.default", "aten.embedding.default", "aten.index.Tensor", "aten.gather.default"}


@dataclass(slots=True)
class Kernel:
    """A fused loop, or an operator that runs by itself.

    Attributes:
        reads: values from memory, as a set.
        writes: values that take memory, as a set.
        computes: all values whose arithmetic it does, as a set.
        alone: whether it runs by itself: its results cannot take the place of what it reads.
        down: whether it reduces down, in a loop that computes nothing of another order.
        members: the realized values that it computes.
        read_by: for each member what it reads, as a set.
        whole: for each member what it reads as a whole and in the order of its own elements, as a set.
    """

    alone: bool
    elements: int = 0
    rows: int = 0
    down: bool = False
    reads: int = 0
    writes: int = 0
    computes: int = 0
    members: list[int] = field(default_factory=list)
    read_by: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)

    def read_by_one(self, member: int) -> int:
        """What ``member`` reads as a whole and no other member reads, as a set; nothing for a ``cat`` that is written here."""
        if member not in self.read_by:
            return 0
        others = 0
        for other, reads in self.read_by.items():
            if other != member:
                others |= reads
        return self.read_by[member] & self.whole[member] & ~others


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
    pieces = _pieces(values, sequence, inside & ~returned) if cpu else {}
    reads, whole, computes, realized = _inlined(values, sequence, inside, returned, pieces, cpu=cpu)
    kernels: list[Kernel] = []
    kernel_of: dict[int, int] = {}
    reading: dict[int, int] = {}  # the kernels that read each value, as a set
    before: list[int] = []  # the kernels that each kernel waits for, directly or not, as a set
    for v in sequence:
        if not realized >> v & 1:
            continue
        value, elements = values[v], values[v].elements
        if value.operator == _CAT:
            there = [r for r in value.reads if pieces.get(r) == v]
            elements -= sum(values[r].elements for r in there)
            for r in there:
                reads[v] &= ~(1 << r)
        if value.kind == "part":
            k = kernel_of[value.reads[0]]
        else:
            alone = _is_alone(value, cpu=cpu)
            near = [] if alone else _near(value, reads[v], kernels, kernel_of, reading, before, cpu=cpu)
            if near:
                k = near[0]
                for other in near[1:]:
                    k = _merged(k, other, kernels, kernel_of, reading, before)
            else:
                k = len(kernels)
                kernels.append(Kernel(alone=alone, elements=elements, rows=value.rows, down=cpu and value.down))
                before.append(_waits_for(k, reads[v], kernel_of, before))
        kernel = kernels[k]
        kernel_of[v] = k
        kernel.members.append(v)
        kernel.read_by[v], kernel.whole[v] = reads[v], whole[v]
        kernel.rows = kernel.rows or value.rows
        new = reads[v] & ~kernel.reads
        kernel.reads |= new
        kernel.computes |= computes[v] | (1 << v if elements else 0)
        for r in bits(new):
            reading[r] = reading.get(r, 0) | 1 << k
        _wait(k, reads[v], kernel_of, before)
    kernels = [kernels[k] for k in _in_order(before) if kernels[k].members]
    reductions = sum(1 << v for v in sequence if values[v].kind == "reduction") if cpu else 0
    _settle(kernels, returned, reductions, pieces)
    return kernels


def _pieces(values: Sequence[Value], sequence: Sequence[int], inside: int) -> dict[int, int]:
    """The elementwise values that are computed into the memory of a ``cat``, which alone reads them, and that ``cat``."""
    readers = Counter(r for v in sequence for r in values[v].reads)
    return {
        r: v
        for v in sequence
        if values[v].operator == _CAT
        for k, r in enumerate(values[v].reads)
        if inside >> r & 1 and values[r].kind == "pointwise" and values[r].operator != _CAT and readers[r] == 1
        if not values[v].parts or values[v].parts[k] == _WHOLE
    }


def _inlined(
    values: Sequence[Value], sequence: Sequence[int], inside: int, returned: int, pieces: Container[int], *, cpu: bool
) -> tuple[dict[int, int], dict[int, int], dict[int, int], int]:
    """For each value what its loop reads, what of that as a whole, what it computes on the way; and what is realized."""
    several, broadcast, by_kernels, by_products = _readers(values, sequence, inside)
    kept = returned | by_kernels
    most_reads = _MOST_READS_ON_CPU if cpu else _MOST_READS_OF_ALL
    most_operations = _MOST_OPERATORS_ON_CPU if cpu else _MOST_OPERATORS
    reads: dict[int, int] = {}
    computes: dict[int, int] = {}
    whole: dict[int, int] = {}
    loads: dict[int, int] = {}  # as a set in which parts have numbers after those of the values
    again: dict[int, tuple[int, int]] = {}  # loads and operations beside those, of what is computed for parts
    at_most: dict[int, int] = {}  # operations, where what several arguments have in common counts for each
    heavy = 0
    realized = 0
    for v in sequence:
        value = values[v]
        bit_of_v = 1 << v
        read = computed = loaded = more_loads = more_operations = 0
        operations, in_order = value.operations, 0
        for k, argument in enumerate(value.reads):
            bit = 1 << argument
            parts = value.parts[k] if value.parts else _WHOLE
            if not inside & bit or realized & bit:
                read |= bit
                in_order |= bit if 0 in parts else 0
                for part in parts:
                    loaded |= 1 << (len(values) + part) if part else bit
                continue
            in_order |= whole[argument] if 0 in parts else 0
            read |= reads[argument]
            computed |= computes[argument] | bit
            operations += at_most[argument] * len(parts)
            loads_again, operations_again = again[argument]
            for part in parts:
                more_loads += loads_again
                more_operations += operations_again
                if part:
                    more_loads += loads[argument].bit_count()
                    more_operations += _operations(values, computes[argument] | bit)
                else:
                    loaded |= loads[argument]
        at_most[v] = operations
        whole[v] = 0 if value.reorders else in_order
        reads[v], computes[v], loads[v], again[v] = read, computed, loaded, (more_loads, more_operations)
        if value.operator in _HEAVY_ON_CPU or computed & heavy:
            heavy |= bit_of_v
        if (
            value.kind != "pointwise"
            or value.operator == _RANDOM
            or kept & bit_of_v
            or v in pieces
            or _is_alone(value, cpu=cpu)
        ):
            realized |= bit_of_v
            continue
        count = loaded.bit_count() + more_loads
        reused = several | broadcast
        if (
            count > most_reads
            or (several & bit_of_v and (count > _MOST_READS or (by_products & bit_of_v and count > 1)))
            or (cpu and heavy & reused & bit_of_v)
            or (
                operations + count > most_operations
                and _operations(values, computed | bit_of_v) + more_operations + count > most_operations
            )
        ):
            realized |= bit_of_v
    return reads, whole, computes, realized


def _readers(values: Sequence[Value], sequence: Sequence[int], inside: int) -> tuple[int, int, int, int]:
    """The values that are read several times, that a larger loop reads over and over, that kernels read, that products read."""
    once = several = broadcast = by_kernels = by_products = 0
    for v in sequence:
        value = values[v]
        for k, argument in enumerate(value.reads):
            bit = 1 << argument
            if not inside & bit:
                continue
            if once & bit or (value.parts and len(value.parts[k]) > 1):
                several |= bit
            once |= bit
            if value.kind in ("kernel", "loop"):
                by_kernels |= bit
            elif value.operator == _PRODUCT:
                by_products |= bit  # ``needs_realized_inputs`` of inductor's lowering
            elif value.elements > values[argument].elements and value.operator not in _LARGER:
                broadcast |= bit  # ``expand`` of inductor's lowering
    return several, broadcast, by_kernels, by_products


def _operations(values: Sequence[Value], of: int) -> int:
    """Operations of one iteration that computes the values of a set, as inductor counts them."""
    return sum(values[v].operations for v in bits(of))


def _near(
    value: Value,
    reads: int,
    kernels: list[Kernel],
    kernel_of: dict[int, int],
    reading: dict[int, int],
    before: list[int],
    *,
    cpu: bool,
) -> list[int]:
    """The kernels whose loop can compute ``value`` too, the last first: none that anything waits for which ``value`` reads.

    A loop with reductions is not moved behind kernels that come after it.
    """
    excluded = candidates = 0
    latest = -1
    for r in bits(reads):
        k = kernel_of.get(r, -1)
        if k >= 0:
            excluded |= before[k]
            latest = max(latest, k)
            candidates |= 1 << k
        candidates |= reading.get(r, 0)
    far = len(kernels) - _FAR
    first = max(min(latest, far), 0)
    return [
        k
        for k in reversed(bits(candidates >> first << first))
        if _same_loop(kernels[k], value, down=cpu and value.down)
        and (k >= latest or (k >= far and not excluded >> k & 1 and not kernels[k].rows and not value.rows))
    ]


def _merged(
    k: int, other: int, kernels: list[Kernel], kernel_of: dict[int, int], reading: dict[int, int], before: list[int]
) -> int:
    """The kernel that two loops without reductions become; ``k`` where they cannot, since something is between them."""
    between = before[k] | before[other]
    kernel, merged = kernels[k], kernels[other]
    if (
        kernel.rows
        or merged.rows
        or any(before[waits] & (1 << k | 1 << other) for waits in bits(between & ~(1 << k | 1 << other)))
    ):
        return k
    first, last = sorted((k, other))
    kernel, merged = kernels[first], kernels[last]
    for r in bits(merged.reads & ~kernel.reads):
        reading[r] |= 1 << first
    kernel.reads |= merged.reads
    kernel.computes |= merged.computes
    kernel.members += merged.members
    kernel.read_by |= merged.read_by
    kernel.whole |= merged.whole
    for v in merged.members:
        kernel_of[v] = first
    for r in bits(merged.reads):
        reading[r] &= ~(1 << last)
    kernels[last] = Kernel(alone=True)  # empty
    between &= ~(1 << first | 1 << last)
    for waits in range(len(before)):
        if waits in (first, last) or before[waits] & (1 << first | 1 << last):
            before[waits] = (before[waits] | between | 1 << first) & ~(1 << last)
    before[first] &= ~(1 << first)
    before[last] = 0
    return first


def _wait(k: int, reads: int, kernel_of: dict[int, int], before: list[int]) -> None:
    """Let the kernel ``k``, and all that wait for it, wait for those that compute ``reads``."""
    new = _waits_for(k, reads, kernel_of, before)
    if new & ~before[k]:
        for other in range(len(before)):
            if other == k or before[other] >> k & 1:
                before[other] |= new


def _waits_for(k: int, reads: int, kernel_of: dict[int, int], before: list[int]) -> int:
    """The kernels other than ``k`` that compute ``reads``, directly or not, as a set."""
    found = 0
    for r in bits(reads):
        other = kernel_of.get(r, k)
        if other != k:
            found |= before[other] | 1 << other
    return found


def _in_order(before: list[int]) -> list[int]:
    """The kernels in the order of their first values, each after those that it waits for (``topological_sort_schedule``)."""
    order: list[int] = []
    there = 0
    for k in range(len(before)):
        for other in sorted(bits(before[k] & ~there), key=lambda waits: before[waits].bit_count()):
            order.append(other)
        there |= before[k]
        if not there >> k & 1:
            order.append(k)
            there |= 1 << k
    return order


def _is_alone(value: Value, *, cpu: bool) -> bool:
    """Whether no other value is computed in its loop: on a CPU each part of a ``cat`` has a loop (``ConcatKernel``)."""
    return value.kind in ("kernel", "loop") or (cpu and value.operator == _CAT)


def _same_loop(kernel: Kernel, value: Value, *, down: bool) -> bool:
    if kernel.alone:
        return False
    if kernel.elements == value.elements:
        if kernel.down or down:
            return kernel.down and down and kernel.rows == value.rows
        return not (kernel.rows and value.rows) or kernel.rows == value.rows
    return value.kind == "pointwise" and bool(kernel.rows) and value.elements == kernel.rows


def _settle(kernels: list[Kernel], returned: int, reductions: int, pieces: Mapping[int, int]) -> None:
    """Leave in ``reads`` what comes from elsewhere, and in ``writes`` what another kernel or the caller reads.

    ``reductions`` are written even where nothing else reads them.
    """
    read_later = 0
    for kernel in reversed(kernels):
        members = written = 0
        for v in kernel.members:
            members |= 1 << v
            written |= 1 << pieces.get(v, v)
        kernel.writes = written if kernel.alone else written & (read_later | returned | reductions)
        kernel.reads &= ~members
        read_later |= kernel.reads
