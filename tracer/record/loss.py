"""Which outputs get gradients: those that the loss reaches, or every differentiable output where there is no loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from remat_planner.tracer.joint import CapturedLoss, dense_strides
from remat_planner.tracer.record.record_loss import Unflattens, may_join_loss, record_loss
from remat_planner.tracer.record.recording import Tangent
from remat_planner.tracer.refusals import refuse_loss, refuse_outputs
from remat_planner.tracer.torch_private import FakeTensorMode


@dataclass(frozen=True)
class EveryOutput:
    """Stands for a loss: a gradient arrives at every differentiable output, even at one called ``loss``. It is never called.

    Attributes:
        layouts: output leaf -> shape and strides (elements) of its gradient, where it is not laid out as the output.
    """

    layouts: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __call__(self, _output: Any) -> torch.Tensor:
        """Not for calls: it stands for gradients that arrive from outside."""
        raise TypeError("EveryOutput stands for gradients that arrive from outside and computes no loss")

    def gradient_strides(self, leaf: int, output: torch.Tensor) -> tuple[int, ...]:
        """The strides of the gradient that arrives at output leaf ``leaf``, which may have another shape than the layout's."""
        shape, strides = self.layouts.get(leaf, ((), ()))
        return _strides_for(tuple(output.shape), shape, strides) if len(shape) == output.dim() > 0 else dense_strides(output)


def loss_of_output(output: Any) -> torch.Tensor | None:
    """The model's own loss, on which training code calls ``backward``: ``output.loss``, ``output["loss"]`` or a scalar output;
    None where the output has none.
    """
    if isinstance(output, torch.Tensor):
        return output if output.numel() == 1 else None
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    return loss if isinstance(loss, torch.Tensor) else None


class LossChooser:
    """Decides at which outputs gradients arrive.

    Attributes:
        captured: the caller's loss, once ``choose`` has recorded it; None where the caller gave none.
    """

    def __init__(self, mode: FakeTensorMode, loss: Callable[[Any], torch.Tensor] | None) -> None:
        self.captured: CapturedLoss | None = None
        self._mode = mode
        self._loss = loss

    def choose(self, output: Any, leaves: list[Any], spec: Unflattens) -> list[Tangent]:
        """The gradients that arrive at ``output`` (fakes, flattened to ``leaves``).

        A gradient may also arrive at each number that the forward leaves in Python state: training code adds auxiliary losses
        to the loss. Tensors that it leaves in an argument count as outputs.

        Raises:
            LossError: the loss is not a differentiable scalar, or depends on no output.
            DataDependentError: the loss reads a value.
            NothingToTrainError: no output requires a gradient.
        """
        if self._loss is not None and not isinstance(self._loss, EveryOutput):
            self.captured, tangents = record_loss(self._loss, self._mode, leaves, spec)
            return tangents
        every_output = self._loss if self._loss is not None else EveryOutput()
        loss = loss_of_output(output) if self._loss is None else None
        if loss is not None:
            refuse_loss(loss, "the model's loss")
            place = next(i for i, leaf in enumerate(leaves) if leaf is loss)
            left_behind = [i for i in may_join_loss(leaves, spec.returned) if leaves[i] is not loss]
            return [Tangent(place, tuple(loss.stride())), *(Tangent(i, dense_strides(leaves[i])) for i in left_behind)]
        outputs = [i for i in (*range(spec.returned), *spec.in_arguments) if _has_history(leaves[i])]
        reached = list(dict.fromkeys((*outputs, *may_join_loss(leaves, spec.returned))))
        refuse_outputs([leaves[i] for i in reached or range(spec.returned)])
        return [Tangent(i, every_output.gradient_strides(i, leaves[i])) for i in reached]


def _has_history(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _strides_for(shape: tuple[int, ...], planned: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides for ``shape`` with the order, expanded dimensions and share of gaps of ``strides``, which are for ``planned``."""
    scaled = [0] * len(shape)
    planned_extent = extent = 1  # of the dimensions inside, with their gaps
    for dim in sorted(range(len(shape)), key=lambda dim: strides[dim]):
        if strides[dim]:
            scaled[dim] = extent * strides[dim] // planned_extent
            planned_extent, extent = strides[dim] * planned[dim], scaled[dim] * shape[dim]
    return tuple(scaled)
