"""The factor of ``BatchNorm(momentum=None)`` as a part of the graph.

Such a module averages the statistics of all batches: its factor is one over the number of batches, which it reads from its
counter as a Python number. A capture would hold for one step. So the recording computes the factor in the graph, in the
precision of Python's floats, and gives it to the batch normalisation of the same call in the place of the number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from remat_planner.tracer.graph_trace import newest_node, nodes_after, recorded_graph
from remat_planner.tracer.operators import argument_position
from remat_planner.tracer.record.provenance import OperatorOrigin
from remat_planner.tracer.refusals import data_dependent_error

aten = torch.ops.aten

_FORWARD = nn.BatchNorm1d.forward.__code__  # of every kind of batch normalisation
_NUMBER = 1
"""What the forward gets for its counter: it does nothing with it but to compute the factor."""


class CumulativeAverages:
    """Follows the batch normalisations of one recording that average over all batches."""

    def __init__(self) -> None:
        self._factors: dict[int, fx.Node] = {}  # by the id of the module
        self._source = ""

    def count(self, operator: Any, args: Any, origin: OperatorOrigin, *, in_backward: bool) -> int | None:
        """The answer to such a module that reads its counter; None for any other read."""
        module = _averaging_module() if operator is aten._local_scalar_dense.default else None
        if module is None or args[0] is not module.num_batches_tracked:
            return None
        last = newest_node(recorded_graph())
        aten.reciprocal.default(aten._to_copy.default(args[0], dtype=torch.float64))
        for node in nodes_after(last):
            node.meta.update(module=origin.module, source=origin.source, in_backward=in_backward)
        self._factors[id(module)] = newest_node(recorded_graph())
        self._source = origin.source
        return _NUMBER

    def use_factor(self, operator: Any, nodes: Iterable[fx.Node]) -> None:
        """Give the factor to the call of ``operator`` among ``nodes``, if it is the batch normalisation of such a module."""
        name = _FACTOR_OF.get(operator)
        module = None if name is None or not self._factors else _averaging_module()
        if name is not None and module is not None and id(module) in self._factors:
            node = next(node for node in nodes if node.target is operator)
            node.meta["factor"] = argument_position(operator, name)
            node.update_arg(node.meta["factor"], self._factors.pop(id(module)))

    def refuse_unused(self) -> None:
        """Refuse a forward in which such a module has read its counter, and no batch normalisation got the factor.

        Raises:
            DataDependentError: there is such a module.
        """
        if self._factors:
            raise data_dependent_error(
                aten._local_scalar_dense.default,
                self._source,
                "a BatchNorm(momentum=None) gives its factor, one over the number of batches, to an operator that the planner "
                "does not know. Give the module a momentum",
            )


_FACTOR_OF = {
    aten.native_batch_norm.default: "momentum",
    aten.cudnn_batch_norm.default: "exponential_average_factor",
    aten.miopen_batch_norm.default: "exponential_average_factor",
}
"""The name of the factor among the arguments of each operator that keeps running statistics."""


def _averaging_module() -> nn.Module | None:
    """The module with ``momentum=None`` whose forward calls the running operator."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not _FORWARD:
        frame = frame.f_back
    module: Any = None if frame is None else frame.f_locals["self"]
    return module if module is not None and module.momentum is None else None
