"""The backend for ``torch.compile`` that compiles with inductor within a number of bytes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import fx

from remat_planner.planner.compile import check_compiler
from remat_planner.planner.errors import CompilerError
from remat_planner.planner.partition.largest_sizes import LargestSizes, largest_sizes
from remat_planner.planner.partition.part import CompiledPart, bytes_after, step_peak
from remat_planner.planner.partition.partitioner import Graphs, Room, partition
from remat_planner.planner.partition.search import Search
from remat_planner.planner.planning import Budget, parse_budget
from remat_planner.planner.torch_inductor import (
    compiled_frame,
    compiled_with,
    given_bytes,
    most_compilations,
    partitioner_missing,
)
from remat_planner.tracer.refusals import refuse_sharded_call

logger = logging.getLogger("remat_planner")


def budgeted_backend(budget: int | str) -> BudgetedBackend:
    """A backend: ``torch.compile(model, backend=remat_planner.budgeted_backend("8GB"))``.

    It compiles as the backend "inductor" does. What the forward saves and the backward recomputes is chosen so that the step is
    predicted to stay within ``budget``, at the least predicted time. ``remat_planner.compile`` measures too. A graph for sizes
    that may change is planned for the largest that were seen, and compiled again for larger ones.

    Args:
        budget: bytes of the whole step: parameters, buffers, inputs, activations and gradients; or a share ("70%") of the
            predicted peak of the fastest partition. The optimizer's state and what the caller holds besides do not count.

    Raises:
        BudgetError: the budget is none.
        CompilerError: this release of PyTorch lets no other partitioner into inductor.
    """
    return BudgetedBackend(parse_budget(budget))


class BudgetedBackend:
    """What ``budgeted_backend`` returns.

    Attributes:
        parts: the graphs that were compiled for training, in the order of their forwards.
        constant_bytes: of the parameters, buffers and inputs of these graphs.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        earlier: Sequence[CompiledPart] = (),
        less: int = 0,
        always: bool = False,
        searches: MutableMapping[str, Search] | None = None,
    ) -> None:
        """``earlier`` are the parts of the same step when it was compiled before, ``searches`` what was found out then.

        The budget is lowered by ``less`` bytes. With ``always`` a graph that fits no partition within it gets the one of the
        least peak.
        """
        missing = partitioner_missing()
        if missing:
            raise CompilerError(
                f"this release of PyTorch, {torch.__version__}, cannot compile within a budget ({missing}): use 2.13, or "
                'remat_planner.apply_schedule(..., compiler="inductor")',
                compiler="inductor",
            )
        self.parts: list[CompiledPart] = []
        self._budget = budget
        self._earlier = list(earlier)
        self._less = less
        self._always = always
        self._searches = searches
        self._given: dict[tuple[int, int], dict[int, int]] = {}  # for each graph the bytes of what it is given
        self._compilations: Counter[int] = Counter()  # of each function
        self._largest: dict[str, int] = {}  # the largest of sizes that may change, by their names

    @property
    def constant_bytes(self) -> int:
        """Bytes of the parameters, buffers and inputs of the graphs."""
        return sum({key: size for given in self._given.values() for key, size in given.items()}.values())

    @property
    def predicted_peak_bytes(self) -> int:
        """Bytes at the peak of a step, predicted."""
        return self.constant_bytes + step_peak(self.parts)

    @property
    def fastest_peak_bytes(self) -> int:
        """Bytes at the predicted peak of the fastest partition, above the constant ones."""
        return _baseline(self.parts)

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """Compile a graph; ``torch.compile`` calls it.

        Raises:
            InfeasibleBudgetError: no partition is within the budget. ``torch.compile`` wraps this error in one of its own.
            ShapesError: the graph is for sizes that may change, and the bytes at the largest ones are not known. Wrapped too.
            CompilerError: inductor lacks a compiler here. Wrapped too.
            tracer.ModelNotSupportedError: the graph is one of a sharded module. Wrapped too.
        """
        refuse_sharded_call(inputs)
        check_compiler("inductor", [value for value in inputs if isinstance(value, torch.Tensor)])
        frame = compiled_frame()
        self._compilations[frame[0]] += 1
        if self._compilations[frame[0]] == most_compilations():
            logger.warning(
                "torch.compile has compiled %d forms of the inputs, its limit: for others it runs the model in eager, whatever "
                "the budget. Use remat_planner.compile(..., shapes=...), which compiles once for ranges of sizes, or raise "
                "torch._dynamo.config.recompile_limit",
                most_compilations(),
            )
        given = given_bytes(module, inputs)
        self._given = {other: found for other, found in self._given.items() if other[1] == frame[1]}
        self._given[frame] = {key: now for key, (now, _) in given.items()}

        def divide(joint: fx.GraphModule, results: int, static: Sequence[int]) -> Graphs:
            sizes = largest_sizes(joint.graph, self._largest)
            self._given[frame] = {key: max(now, sizes.of(any_size)) for key, (now, any_size) in given.items()}
            return self._partition(joint, results, static, frame, sizes)

        return compiled_with(divide, module, inputs)

    def _partition(
        self, joint: fx.GraphModule, results: int, static: Sequence[int], frame: tuple[int, int], sizes: LargestSizes
    ) -> Graphs:
        self.parts = [part for part in self.parts if part.frame[1] == frame[1] and part.frame != frame]
        before = sum(part.saved_bytes for part in self.parts)
        position = len(self.parts)

        def limit(fastest: int) -> Room:
            baseline = self.constant_bytes + max(before + fastest, _baseline(self._earlier))
            whole = self._budget.resolve(baseline) - self.constant_bytes
            return Room(here=whole - before - self._less, whole=whole)

        graphs, part = partition(
            joint,
            results,
            static,
            sizes=sizes,
            frame=frame,
            limit=limit,
            between=bytes_after(self._earlier, position) if position < len(self._earlier) else 0,
            always=self._always,
            searches={} if self._searches is None else self._searches,
        )
        self.parts.append(part)
        return graphs


def _baseline(parts: Sequence[CompiledPart]) -> int:
    """Peak of the fastest step, from the first graphs on."""
    before = peak = 0
    for part in parts:
        peak = max(peak, before + part.fastest_bytes)
        before += part.saved_bytes
    return peak
