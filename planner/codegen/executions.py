"""A schedule as straight-line code: its executions in order, and the instances that each one reads and produces.

An execution of an op produces a new *instance* of each of its values. A read takes the newest instance, as in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import fx

InstanceKind = Literal["source", "tangent", "constant", "zeros", "result", "element", "generator state"]


@dataclass(slots=True)
class Instance:
    """A tensor, a tuple of tensors or a generator state at run time.

    Attributes:
        kind: where it comes from. A source is a parameter, buffer, input or what the step copies to; a constant is an attribute
            of the captured graph; zeros stand for a gradient that does not arrive; an element is one item of a tuple that an
            execution returns.
        node: the node of the joint graph whose value it is.
        family: number shared by all instances on one storage.
        producer: index of the ``Execution`` that produces it; -1 where none does.
        element: its position in the tuple, for an element.
    """

    kind: InstanceKind
    node: fx.Node
    family: int
    producer: int = -1
    element: int = 0


@dataclass(slots=True)
class Execution:
    """One execution of ``node``.

    Attributes:
        step: its position in the schedule.
        result: the instance that it produces.
        reads: the instance that it reads for each node among its arguments.
        elements: the instances of those elements of its result that are read.
        omitted: positions of the arguments that it gets as None: running statistics that the first execution has updated.
        in_place: whether it is an addition that leaves its result in its first argument.
        saved_state: instance of the generator state that is saved before a draw that a later execution repeats.
        replayed_state: instance of the generator state from which this execution repeats a draw.
    """

    node: fx.Node
    step: int
    result: int
    reads: dict[fx.Node, int]
    elements: list[int] = field(default_factory=list)
    omitted: tuple[int, ...] = ()
    in_place: bool = False
    saved_state: int | None = None
    replayed_state: int | None = None

    @property
    def passed_arguments(self) -> set[fx.Node]:
        """The nodes among its arguments that it does not omit."""
        if not self.omitted:
            return set(self.reads)
        passed: set[fx.Node] = set()
        args = tuple(argument for k, argument in enumerate(self.node.args) if k not in self.omitted)
        fx.node.map_arg((args, dict(self.node.kwargs)), passed.add)
        return passed


@dataclass
class StraightLine:
    """The executions of a schedule in order. The caller's loss runs after ``executions[:forward_end]``.

    ``outputs`` and ``gradients`` hold the instance of each output leaf and of each gradient, None where it has no node.
    ``sources`` holds the instance of each parameter, buffer and input, ``pools`` that of the pools which the step copies to, or
    None.
    """

    instances: list[Instance]
    executions: list[Execution]
    forward_end: int
    outputs: list[int | None]
    gradients: list[int | None]
    sources: dict[fx.Node, int]
    pools: int | None = None
