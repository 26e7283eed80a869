"""Which outputs get gradients: by the caller's loss, captured beside the model, or by what training code takes for the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.errors import DataDependentError, LossError
from remat_planner.tracer.joint import CapturedLoss, TreeOfLeaves
from remat_planner.tracer.record.ambient_modes import without_autocast
from remat_planner.tracer.record.loss_lifetimes import Lifetimes
from remat_planner.tracer.record.provenance import Provenance
from remat_planner.tracer.record.recorder import Recorder, run_user_code
from remat_planner.tracer.record.recording import Tangent
from remat_planner.tracer.record.value_guards import KnownValues
from remat_planner.tracer.torch_private import FakeTensorMode, single_threaded_backward, trace, without_recording


def every_output(_output: Any) -> torch.Tensor:
    """In the place of a loss: every differentiable output gets a gradient, whatever it is called. It is never run."""
    raise TypeError("every_output stands for gradients that arrive from outside: it is no loss to compute")


class LossChooser:
    """Decides where gradients arrive; keeps the caller's loss, captured, in ``captured``."""

    def __init__(self, mode: FakeTensorMode, loss: Callable[[Any], torch.Tensor] | None) -> None:
        self.captured: CapturedLoss | None = None
        self._mode = mode
        self._loss = loss

    def choose(self, output: Any, leaves: list[Any], spec: TreeOfLeaves) -> list[Tangent]:
        """The gradients that arrive when the step is run on ``output`` (fakes, flattened to ``leaves``).

        Raises:
            LossError: the loss is not a differentiable scalar.
        """
        if self._loss is not None and self._loss is not every_output:
            return self._by_callers_loss(self._loss, leaves, spec)
        scalar = None if self._loss is every_output else _loss_of(output)
        if scalar is not None:
            _check_scalar(scalar, "the model's loss")
            place = next(i for i, leaf in enumerate(leaves) if leaf is scalar)
            return [Tangent(place, tuple(scalar.stride()))]
        return [
            Tangent(i, _dense_strides(leaf))
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad
        ]

    def _by_callers_loss(self, loss: Callable[[Any], torch.Tensor], leaves: list[Any], spec: TreeOfLeaves) -> list[Tangent]:
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        found: dict[int, tuple[int, ...]] = {}

        def step(tensors: list[torch.Tensor], watch: Recorder | Lifetimes) -> tuple[torch.Tensor, list[torch.Tensor]]:
            filled = list(leaves)
            for i, tensor in zip(places, tensors, strict=True):
                filled[i] = tensor.detach().requires_grad_(leaves[i].requires_grad)
            with self._mode, watch:
                try:
                    value = run_user_code(loss, (spec.unflatten(filled),), {})
                except DataDependentError as error:
                    raise DataDependentError(
                        f"{error.source or 'the loss'}: the loss reads a value, or makes a tensor whose size depends on one "
                        f"({error.operator}), and values are not known while the step is planned. Weight the terms instead "
                        "of selecting them (loss * mask, ignore_index), and read values after the backward",
                        source=error.source,
                        operator=error.operator,
                    ) from error
            _check_scalar(value, "the loss")
            differentiable = [i for i in places if leaves[i].requires_grad]
            watch.in_backward = True
            with self._mode, watch, single_threaded_backward(), without_autocast():
                gradients = torch.autograd.grad(value, [filled[i] for i in differentiable], allow_unused=True)
            found.update({i: tuple(g.stride()) for i, g in zip(differentiable, gradients, strict=True) if g is not None})
            return value, [g for g in gradients if g is not None]

        with without_recording():
            with self._mode, torch.no_grad():
                stand_ins = [
                    torch.empty_strided(leaves[i].shape, leaves[i].stride(), dtype=leaves[i].dtype, device=leaves[i].device)
                    for i in places
                ]
            known = KnownValues()
            recorder = Recorder(Provenance(nn.Module()), known)
            module = trace(lambda tensors: step(tensors, recorder), stand_ins)
            lifetimes = Lifetimes(known.answers)
            value, gradients = step(stand_ins, lifetimes)  # a trace lets go of nothing
        if not found:
            raise LossError("the loss sends a gradient to no output of the model: it does not depend on them", shape=())
        ops = [node for node in module.graph.nodes if node.op in ("call_function", "get_attr")]
        self.captured = CapturedLoss(
            graph=module,
            forward=tuple(node for node in ops if not node.meta.get("in_backward", False)),
            backward=tuple(node for node in ops if node.meta.get("in_backward", False)),
            outputs=tuple(node for node in module.graph.nodes if node.op == "placeholder"),
            arrives=tuple(i in found for i in range(len(leaves))),
            lifetimes=lifetimes.made([value, *gradients]),
        )
        return [Tangent(i, stride) for i, stride in found.items()]


def _loss_of(output: Any) -> torch.Tensor | None:
    """What training code calls ``backward`` on: ``output.loss``, ``output["loss"]`` or a scalar output."""
    if isinstance(output, torch.Tensor):
        return output if output.numel() == 1 else None
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    return loss if isinstance(loss, torch.Tensor) else None


def _check_scalar(loss: Any, what: str) -> None:
    if not isinstance(loss, torch.Tensor):
        raise LossError(f"{what} is a {type(loss).__name__}: it has to be a tensor with one element", shape=None)
    if loss.numel() != 1:
        raise LossError(
            f"{what} has shape {list(loss.shape)}: a backward starts from one number. Reduce it (.mean() or .sum())",
            shape=tuple(loss.shape),
        )
    if not loss.requires_grad:
        raise LossError(f"{what} does not depend on anything that requires a gradient: it is detached", shape=tuple(loss.shape))


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides that a gradient made like ``tensor`` gets (``torch.empty_like``)."""
    return tuple(torch.empty_like(tensor.detach(), device="meta").stride())
