"""How instances travel between segments: where each is computed and read, and its place in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from torch import fx

from remat_planner.planner.codegen.cuts import Cuts
from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.torch_private import storage_key


class Sharing(NamedTuple):
    """Tensors that the forward returns, and that lie in one storage in eager.

    Attributes:
        positions: of the tensors.
        with_callers: a parameter, buffer or input lies there too.
    """

    positions: tuple[int, ...]
    with_callers: bool


@dataclass(frozen=True)
class Dataflow:
    """The instances of ``line`` in the segments of its cuts. Segment 0 is the forward.

    Attributes:
        line: the executions.
        outputs: for each output leaf the instance that the forward returns; None where the caller gets back its own tensor or a
            constant.
        computed_in: for each instance the segment that computes it; 0 for what no execution produces.
        read_in: for each instance that is read or handed over, the segments that do so.
        places: for each instance that a later segment reads, its place in the store.
    """

    line: StraightLine
    outputs: tuple[int | None, ...]
    computed_in: tuple[int, ...]
    read_in: dict[int, set[int]]
    places: dict[int, int]

    @classmethod
    def of(cls, joint: Joint, line: StraightLine, cuts: Cuts, places: Mapping[int, int] | None = None) -> Dataflow:
        """Follow every instance through the segments; ``places`` in the store are those that a forward has filled."""
        segments = [s for s, (start, end) in enumerate(cuts.bounds) for _ in range(start, end)]
        computed_in = tuple(segments[i.producer] if i.producer >= 0 else 0 for i in line.instances)
        read_in = _read_in(line, cuts, segments)
        crossing = [
            i
            for i, instance in enumerate(line.instances)
            if instance.kind not in ("constant", "zeros")
            and i in read_in
            and (max(read_in[i]) > computed_in[i] or instance.kind == "tangent")
        ]
        filled = places or {}
        new = dict(zip((i for i in crossing if i not in filled), count(len(filled)), strict=False))
        return cls(
            line, _outputs(joint, line), computed_in, read_in, {i: filled[i] if i in filled else new[i] for i in crossing}
        )

    def is_needed(self, instance: int, segment: int) -> bool:
        """Whether ``segment``, which computes ``instance``, has a use for it."""
        return instance in self.read_in or (segment == 0 and instance in self.outputs)

    def reads(self, segment: int) -> list[int]:
        """The instances that ``segment`` takes out of the store."""
        return [i for i in self.places if self.computed_in[i] < segment and segment in self.read_in[i]]

    def last_reads(self, segment: int) -> list[int]:
        """Those of its reads that no later segment reads."""
        return [i for i in self.reads(segment) if max(self.read_in[i]) == segment]

    def stored_by(self, segment: int) -> list[int]:
        """The instances that ``segment`` puts into the store, if it has them; tangents arrive there by themselves."""
        return [i for i in self.places if self.computed_in[i] == segment and self.line.instances[i].kind != "tangent"]

    @property
    def store_size(self) -> int:
        """Number of places in the store."""
        return 1 + max(self.places.values(), default=-1)

    def sharing(self, returned: Sequence[int]) -> tuple[Sharing, ...]:
        """Which of ``returned`` lie in one storage in eager, or in one of the caller's."""
        together: dict[int, list[int]] = defaultdict(list)
        for position, instance in enumerate(returned):
            together[storage_key(self.line.instances[instance].node.meta["val"])].append(position)
        callers = {storage_key(node.meta["val"]) for node in self.line.sources}
        groups = (Sharing(tuple(positions), storage in callers) for storage, positions in together.items())
        return tuple(group for group in groups if len(group.positions) > 1 or group.with_callers)

    def unchanged(self) -> tuple[tuple[int, fx.Node | int], ...]:
        """The caller's tensors that the backward reads, as (place, joint node or output leaf).

        They are parameters, buffers, inputs, and outputs that share a storage with a retained instance.
        """
        instances = self.line.instances
        owners: dict[int, fx.Node | int] = {instances[i].family: node for node, i in self.line.sources.items()}
        for leaf, output in enumerate(self.outputs):
            if output is not None:
                owners.setdefault(instances[output].family, leaf)
        return tuple((self.places[i], owners[instances[i].family]) for i in self.stored_by(0) if instances[i].family in owners)


def _outputs(joint: Joint, line: StraightLine) -> tuple[int | None, ...]:
    inputs = set(joint.input_nodes)
    with_tangent = set(joint.tangent_outputs)
    return tuple(
        None if leaf.node in inputs and k not in with_tangent else instance
        for k, (leaf, instance) in enumerate(zip(joint.outputs, line.outputs, strict=True))
    )


def _read_in(line: StraightLine, cuts: Cuts, segments: list[int]) -> dict[int, set[int]]:
    read_in: dict[int, set[int]] = defaultdict(set)
    for position, execution in enumerate(line.executions):
        if position in cuts.skipped:
            continue
        for argument in execution.passed_arguments:
            read_in[execution.reads[argument]].add(segments[position])
        if execution.replayed_state is not None:
            read_in[execution.replayed_state].add(segments[position])
    for segment, handed_over in enumerate(cuts.handed_over):
        for part in handed_over:
            if part.instance is not None:
                read_in[part.instance].add(segment)
    return dict(read_in)
