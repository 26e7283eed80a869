"""A compiled step, judged: seconds and peak of its forward and backward for a set of values that are saved in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from remat_planner.tracer.fusion.kernels import Kernel, bits, kernels_of
from remat_planner.tracer.fusion.rates import Rates
from remat_planner.tracer.fusion.values import Value, Values

_SMALL = 5e-4
"""Share of all bytes that might be saved, below which a value is not worth a decision."""
_DRAWN = 50.0
"""Arithmetic per element, in additions, of what is dear to compute again within a loop: random numbers."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Attributes:
    seconds: of both graphs.
    saved: the values that pass from forward to backward, as indices; parameters and inputs left out.
    passed: the same with parameters and inputs.
    saved_bytes: bytes that stay allocated between the two, results of the forward included.
    recomputed: values that the backward computes again.
    bytes: that are allocated before the first kernel of each graph and while each runs, and between the two graphs. What is
        there all the time is left out.
    """

    seconds: float
    saved: frozenset[int]
    passed: frozenset[int]
    saved_bytes: int
    recomputed: frozenset[int]
    bytes: tuple[int, ...]

    @property
    def peak(self) -> int:
        """The most bytes."""
        return max(self.bytes)

    def excess(self, budget: int) -> int:
        """Bytes above ``budget``, summed over the kernels."""
        return sum(b - budget for b in self.bytes if b > budget)


@dataclass(frozen=True, slots=True)
class AtPeak:
    """What is allocated at the peak of a step, what is there all the time left out.

    Attributes:
        kernel: name of a value that is computed then; "" between forward and backward.
        gradients: bytes of the step's results: gradients of parameters and inputs.
        saved: bytes that the forward has left for the backward and its caller.
        others: bytes of all else: what kernels read and write, and their workspaces.
    """

    kernel: str
    gradients: int
    saved: int
    others: int


@dataclass(frozen=True)
class FusedStep:
    """The values of a joint graph with the rates of the device.

    Attributes:
        values: of the joint graph.
        rates: of the device.
        cpu: whether it is a CPU, for which inductor has rules of its own.
        between: bytes that other graphs take between the forward and the backward, while what is saved waits.
    """

    values: Values
    rates: Rates
    cpu: bool
    between: int = 0

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """The backward's own values, in order."""
        forward, values = self.values.forward, self.values.values
        wanted = set(self.values.backward_results)
        for v in reversed(range(len(values))):
            if v in wanted:
                wanted.update(values[v].reads)
        return tuple(v for v in range(len(values)) if v in wanted and not forward[v])

    @cached_property
    def candidates(self) -> tuple[int, ...]:
        """The forward's values that may be saved: what the backward reads, directly or to compute it again.

        A constant is none: inductor writes it where it is read.
        """
        values, forward = self.values.values, self.values.forward
        wanted = {r for v in self.needed for r in values[v].reads if forward[r]}
        wanted |= {v for v in self.values.backward_results if forward[v]}
        for v in reversed(range(len(values))):
            if v in wanted:
                wanted.update(values[v].reads)
        return tuple(
            v
            for v in sorted(wanted)
            if forward[v]
            and values[v].bytes
            and values[v].kind not in ("given", "copy")
            and not (values[v].kind == "pointwise" and values[v].repeatable and not values[v].reads)
        )

    @cached_property
    def _always(self) -> frozenset[int]:
        """What is saved in any case.

        These are the results of the forward, which stay allocated anyway, what cannot be repeated, and small results of
        reductions and kernels.
        """
        values = self.values.values
        small = _SMALL * sum(values[v].bytes for v in self.candidates)
        return frozenset(
            v
            for v in self.candidates
            if v in self.values.forward_results
            or not values[v].repeatable
            or (values[v].kind != "pointwise" and values[v].bytes < small)
        )

    @cached_property
    def choice(self) -> tuple[int, ...]:
        """The candidates that are saved or not as one likes.

        Of elementwise values these are the ones that the forward has in memory anyway, those that the backward's own values
        read, and random numbers.
        """
        values = self.values.values
        kept = self._always | {v for v in self.candidates if values[v].kind != "pointwise"}
        results = _mask(v for v in self.values.forward_results if values[v].kind != "given") | _mask(kept)
        in_memory = _union(kernel.writes for kernel in kernels_of(values, self._forward(results), results, cpu=self.cpu))
        worth = in_memory | _mask(r for v in self.needed for r in values[v].reads)
        small = _SMALL * sum(values[v].bytes for v in self.candidates)
        return tuple(
            v
            for v in self.candidates
            if v not in self._always
            and (values[v].kind != "pointwise" or (values[v].bytes >= small and (worth >> v & 1 or values[v].weight >= _DRAWN)))
        )

    def evaluate(self, saved: Iterable[int]) -> Judged:
        """Judge the step that saves ``saved`` and what must be saved in any case."""
        values = self.values.values
        run = self._run(saved)
        forward_bytes = _allocated(values, run.forward, 0, run.kept, cpu=self.cpu)
        backward_bytes = _allocated(values, run.backward, run.at_start, run.returned, cpu=self.cpu)
        saved_bytes = sum(values[v].bytes for v in bits(run.kept))
        return Judged(
            seconds=self._seconds(run.forward) + self._seconds(run.backward),
            saved=frozenset(v for v in run.passed if values[v].kind != "given"),
            passed=run.passed,
            saved_bytes=saved_bytes,
            recomputed=run.recomputed,
            bytes=(*forward_bytes, saved_bytes + self.between, *backward_bytes),
        )

    def at_peak(self, judged: Judged) -> AtPeak:
        """What the peak of a step that was judged consists of."""
        values = self.values.values
        run = self._run(judged.saved)
        moment = judged.bytes.index(judged.peak)
        late = moment - len(run.forward) - 2  # forward: before its first kernel, and each; then the moment between
        kernels, there, kept = (run.backward, run.at_start, run.returned) if late >= 0 else (run.forward, 0, run.kept)
        k = (late if late >= 0 else moment) - 1
        for kernel in kernels[: k + 1]:
            there |= kernel.writes
        for kernel in kernels[k:] if k >= 0 else kernels:
            kept |= kernel.reads | kernel.writes
        there &= kept
        if late == -1:
            k, there = -1, run.kept
        gradients = sum(values[v].bytes for v in bits(there & run.gradients))
        saved = sum(values[v].bytes for v in bits(there & run.kept & ~run.gradients))
        name = values[kernels[k].members[0]].name if k >= 0 else ""
        return AtPeak(name, gradients, saved, judged.peak - gradients - saved)

    def _run(self, saved: Iterable[int]) -> _Run:
        saved = self._always | set(saved)
        backward, passed, recomputed = self._backward(saved)
        values = self.values.values
        passed_mask = _mask(v for v in passed if values[v].kind != "given")
        results = _mask(v for v in self.values.forward_results if values[v].kind != "given")
        kept = results | passed_mask
        gradients = _mask(self.values.backward_results)
        return _Run(
            forward=kernels_of(values, self._forward(kept), kept, cpu=self.cpu),
            backward=kernels_of(values, backward, gradients, cpu=self.cpu),
            kept=kept,
            at_start=kept | _mask(self._tangents),
            gradients=gradients,
            returned=gradients | results,
            passed=frozenset(passed),
            recomputed=recomputed,
        )

    @cached_property
    def _tangents(self) -> tuple[int, ...]:
        values = self.values.values
        return tuple(v for v, value in enumerate(values) if value.kind == "given" and not self.values.forward[v])

    def _forward(self, kept: int) -> list[int]:
        """The forward's values that ``kept`` needs, in order."""
        values = self.values.values
        wanted = kept
        for v in reversed(range(len(values))):
            if wanted >> v & 1:
                for r in values[v].reads:
                    wanted |= 1 << r
        return [v for v in bits(wanted) if values[v].kind != "given"]

    def _backward(self, saved: frozenset[int] | set[int]) -> tuple[list[int], set[int], frozenset[int]]:
        """The backward's values in the order in which they run, what it is given of the forward, and what it recomputes.

        A recomputed value runs as late as possible, just before what needs it first, as in
        ``torch._functorch.partitioners.reordering_to_mimic_autograd_engine``.
        """
        values, forward = self.values.values, self.values.forward
        sequence: list[int] = []
        there: set[int] = set()
        passed: set[int] = set()
        for v in (*self.needed, *sorted(r for r in self.values.backward_results if forward[r])):
            stack = [r for r in values[v].reads if forward[r]] if not forward[v] else [v]
            missing = []
            while stack:
                r = stack.pop()
                if r in there:
                    continue
                there.add(r)
                if r in saved or values[r].kind == "given":
                    passed.add(r)
                else:
                    missing.append(r)
                    stack.extend(values[r].reads)
            sequence += sorted(missing)
            if not forward[v] and values[v].kind != "given":
                sequence.append(v)
        return sequence, passed, frozenset(v for v in sequence if forward[v])

    def _seconds(self, kernels: Sequence[Kernel]) -> float:
        values, rates = self.values.values, self.rates
        total = 0.0
        for kernel in kernels:
            if kernel.alone and kernel.members and values[kernel.members[0]].kind == "kernel":
                total += values[kernel.members[0]].seconds
                continue
            most = kernel.elements * 8
            moved = sum(min(values[v].bytes, most) for v in bits(kernel.reads | kernel.writes))
            arithmetic = sum(values[v].weight * values[v].elements for v in bits(kernel.computes))
            total += rates.launch + moved / rates.bandwidth + arithmetic / rates.arithmetic
            total += rates.narrow_read * sum(min(values[v].narrow, kernel.elements) for v in bits(kernel.reads))
            total += rates.narrow_written * sum(min(values[v].narrow, kernel.elements) for v in bits(kernel.writes))
        return total


@dataclass(frozen=True, slots=True)
class _Run:
    """Both graphs of a step. ``kept`` is there between them, ``at_start`` when the backward begins, ``returned`` at its end."""

    forward: list[Kernel]
    backward: list[Kernel]
    kept: int
    at_start: int
    gradients: int
    returned: int
    passed: frozenset[int]
    recomputed: frozenset[int]


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _mask(of: Iterable[int]) -> int:
    mask = 0
    for v in of:
        mask |= 1 << v
    return mask


def _allocated(values: Sequence[Value], kernels: Sequence[Kernel], at_start: int, returned: int, *, cpu: bool) -> list[int]:
    """Bytes that are allocated before the first of ``kernels`` and while each runs.

    ``at_start`` is allocated before. A value is freed after its last reader. Where only one result of a loop reads it and has
    the same size, that result takes its place (``SchedulerNode.decide_inplace_update``). Incoming gradients stay as they are.

    On a CPU the loops between two kernels of their own are one function (``KernelGroup`` of ``codegen/cpp.py``): what they
    write is allocated before it, and freed after it.
    """
    last: dict[int, int] = {}
    for k, kernel in enumerate(kernels):
        for v in bits(kernel.reads):
            last[v] = k
    alive = sum(values[v].bytes for v in bits(at_start))
    allocated = at_start
    found = [alive]
    waiting = 0  # bytes that are freed at the end of the function
    for k, kernel in enumerate(kernels):
        by_itself = not cpu or (kernel.alone and values[kernel.members[0]].kind == "kernel")
        if by_itself:
            alive -= waiting
            waiting = 0
        dying = _mask(v for v in bits(kernel.reads & allocated & ~returned) if last[v] == k)
        written = bits(kernel.writes & ~allocated)
        more = sum(values[v].bytes for v in written)
        freed = dying
        if kernel.alone:
            workspace = sum(values[v].workspace for v in kernel.members)
        else:
            workspace = 0
            ends = _mask(v for v in bits(dying) if values[v].kind != "given")
            for v in written:
                free = (r for r in bits(kernel.read_by_one(v) & ends) if values[r].bytes == values[v].bytes)
                if (r := next(free, None)) is not None:
                    ends &= ~(1 << r)
                    freed &= ~(1 << r)
                    more -= values[v].bytes
        found.append(alive + more + workspace)
        alive += more
        for v in written:
            allocated |= 1 << v
            if v not in last and not returned >> v & 1:  # an unread result of a kernel of its own
                freed |= 1 << v
        allocated &= ~freed & ~dying
        waiting += sum(values[v].bytes for v in bits(freed))
        if by_itself:
            alive -= waiting
            waiting = 0
    return found
