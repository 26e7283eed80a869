"""How gradients flow through eager's autograd graph: on which tangents each depends, and where autograd adds them up.

A training loop may send gradients to some outputs and not to others. Autograd then runs only the nodes that a gradient reaches,
and a sum leaves out the terms that do not arrive. So what eager does for any set of tangents follows from this record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Tangents = frozenset[int]
"""Indices of tangents, as in ``Joint.tangent_nodes``."""

InPlaceOfMissing = Literal["zeros", "none", "unknown"]


@dataclass(frozen=True, slots=True)
class Meeting:
    """An autograd node to which several gradients flow that depend on different tangents (the backward of ``split``).

    Attributes:
        gradients: for each of them, the tangents on which it depends.
        missing: what the node's formula takes for one that does not arrive beside others.
        name: of the node.
    """

    gradients: tuple[Tangents, ...]
    missing: InPlaceOfMissing
    name: str


@dataclass(frozen=True)
class GradientFlow:
    """The flow of all gradients of one step.

    Attributes:
        gradients: for each of ``Joint.gradients``, the tangents on which it depends.
        sums: for each addition that autograd itself makes, by its index in ``Joint.operators``, the tangents on which each of
            its terms depends.
        nodes: for each autograd node, by its number, the tangents on which its gradients depend.
        meetings: the nodes, by number, that may get some of their gradients and not others.
    """

    gradients: tuple[Tangents, ...]
    sums: Mapping[int, tuple[Tangents, Tangents]] = field(default_factory=dict)
    nodes: Mapping[int, Tangents] = field(default_factory=dict)
    meetings: Mapping[int, Meeting] = field(default_factory=dict)
