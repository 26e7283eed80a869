"""A gradient that is a sum, as the parts that autograd adds up.

Where a call of the model is one of several things that send a gradient to a parameter (two calls before one backward, a loss of
the parameters, modules outside of a region), eager adds each part to the sum of all that came before. To add up the parts of
one call first would give other bits, so they leave one by one. Autograd adds them in place, or takes what the plan's own
additions would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.tracer.joint import Gradient, Joint


@dataclass(frozen=True)
class Parts:
    """How a gradient is handed to autograd.

    Attributes:
        instances: what autograd adds up, in order: one where it is no sum, none where there is no gradient.
        made: for each the call from which on autograd has it: the plan's addition, or that which makes it where there is none;
            -1 for what is there before.
        sums: the calls in which the plan adds them up and lays the sum out. Autograd does that instead.
    """

    instances: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()

    @classmethod
    def whole(cls, instance: int | None, line: StraightLine) -> Parts:
        """The gradient ``instance`` in one piece."""
        return cls() if instance is None else cls((instance,), (line.instances[instance].made,))


def parts_of_gradients(joint: Joint, line: StraightLine) -> list[Parts]:
    """Each gradient of ``joint`` in parts; in one piece where something else reads its sums."""
    readers: dict[int, set[int]] = defaultdict(set)
    for position, call in enumerate(line.calls):
        for instance in call.reads.values():
            readers[instance].add(position)
    for kept in (*line.outputs, *line.gradients):
        if kept is not None:
            readers[kept].add(-1)
    return [_parts(gradient, i, line, readers) for gradient, i in zip(joint.gradients, line.gradients, strict=True)]


def _parts(gradient: Gradient, instance: int | None, line: StraightLine, readers: Mapping[int, set[int]]) -> Parts:
    if instance is None or not gradient.sums:
        return Parts.whole(instance, line)
    total = instance
    arrived, calls = [], []
    if gradient.node is not gradient.sums[0]:  # a copy of the sum, laid out as the parameter
        calls.append(line.instances[total].made)
        total = line.calls[calls[-1]].reads[gradient.sums[0]]
    for node, rest in pairwise((*gradient.sums, gradient.contributions[0])):
        calls.append(line.instances[total].made)
        reads = line.calls[calls[-1]].reads
        arrived.append(reads[next((argument for argument in node.all_input_nodes if argument is not rest), rest)])
        total = reads[rest]
    if any(readers[line.calls[call].result] - {*calls, -1} for call in calls) or any(
        -1 in readers[line.calls[call].result] for call in calls[1:]
    ):
        return Parts.whole(instance, line)
    additions = calls[-len(arrived) :]
    made = (additions[-1], *reversed(additions[1:]), calls[0])
    return Parts((total, *reversed(arrived)), made, tuple(calls))
