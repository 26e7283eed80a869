"""The caller's own loss, captured beside the model.

It runs between forward and backward and remains the caller's to compute; the plan needs its bytes and its time.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True, slots=True)
class StorageLifetime:
    """When a storage that the loss allocates is resident.

    Attributes:
        bytes: its size.
        first: number of the operator that allocates it.
        last: number of the last operator during which it is resident.
        stays: it remains resident after the loss.
    """

    bytes: int
    first: int
    last: int
    stays: bool


@dataclass(frozen=True)
class CapturedLoss:
    """The loss as a graph of its own.

    Attributes:
        graph: takes the output leaves that have a node and returns (loss, gradient for each of the joint's tangents and
            for each parameter that the loss has itself).
        forward: its forward nodes, in eager's order.
        backward: its backward nodes, in eager's order.
        outputs: its placeholders, one for each output leaf that has a node, in order.
        lifetimes: every storage that it allocates, by number of operator (``meta["operator"]`` of its nodes); the loss and
            the gradients stay.
    """

    graph: fx.GraphModule
    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    lifetimes: tuple[StorageLifetime, ...]
