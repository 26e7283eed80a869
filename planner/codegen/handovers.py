"""Which gradients one autograd node hands over, so that autograd reaches each of them from the outputs that eager does.

Eager runs the hooks of a parameter only if a gradient arrives at an output that depends on it. So what depends on other
tangents is handed over by another node. The nodes of one set of tangents form a chain, in the order of the segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from remat_planner.planner.codegen.cuts import HandedOver
from remat_planner.tracer.joint import Joint, Tangents


@dataclass(frozen=True)
class Handover:
    """What autograd gets at once.

    Attributes:
        number: of the handover, from the first to the last.
        segment: index of the backward's segment after which it leaves.
        positions: of the gradients among all that leave after this segment; None where it is all of them.
        gradients: their indices in ``Joint.gradients``.
        tangents: those on which they depend.
        following: the next one of its chain. The last one of a chain is followed by one that more tangents reach.
        awaited_by: at the end of a chain, indices of the gradients of inputs that depend on all its tangents: autograd hands
            them over only then. So whoever follows the autograd graph from the parameters, as zero-bubble pipelines do, finds
            that they lie on the way to the inputs.
    """

    number: int
    segment: int
    positions: tuple[int, ...] | None
    gradients: tuple[int, ...]
    tangents: Tangents
    following: int | None
    awaited_by: tuple[int, ...]

    @property
    def receivers(self) -> tuple[int, ...]:
        """The gradients whose owners have an edge from here."""
        return (*self.gradients, *self.awaited_by)


def handovers(joint: Joint, handed_over: Sequence[Sequence[HandedOver]]) -> tuple[Handover, ...]:
    """The handovers in order; ``handed_over`` is what leaves after each segment of the backward."""
    runs = list(_runs(handed_over))
    of_inputs: dict[int, Tangents] = {}
    for part in (part for of_segment in handed_over for part in of_segment):
        if joint.gradients[part.gradient].owner == "input":
            of_inputs[part.gradient] = of_inputs.get(part.gradient, frozenset()) | part.tangents
    made: list[Handover] = []
    for number, (segment, positions, tangents) in enumerate(runs):
        gradients = tuple(handed_over[segment][k].gradient for k in positions)
        later = [k for k in range(number + 1, len(runs)) if tangents <= runs[k][2]]
        ends_chain = all(runs[k][2] != tangents for k in later)
        awaited_by = [k for k, of_input in of_inputs.items() if ends_chain and tangents <= of_input and k not in gradients]
        following = min(later, key=lambda k: (len(runs[k][2]), k), default=None)
        some = positions if len(positions) < len(handed_over[segment]) else None
        made.append(Handover(number, segment, some, gradients, tangents, following, tuple(awaited_by)))
    return tuple(made)


def _runs(handed_over: Sequence[Sequence[HandedOver]]) -> Iterator[tuple[int, tuple[int, ...], Tangents]]:
    """Segment, positions and tangents of what leaves at once: neighbours that depend on the same tangents."""
    for segment, parts in enumerate(handed_over):
        for tangents, positions in groupby(range(len(parts)), key=lambda k: parts[k].tangents):
            yield segment, tuple(positions), tangents
